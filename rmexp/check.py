"""Every `_target_` node is bound to its constructor's signature before anything is built.

A constructor is its node's schema: this walk reports all misspelt, missing and ill-typed keys of a
configuration at once, instead of the first one after the data have been read.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from rmexp.config import config_dir
from rmexp.errors import ConfigError
from rmexp.suggest import did_you_mean, nearest

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def check(config: DictConfig, live: Mapping[str, Iterable[str]]) -> None:
    """Check all nodes of `config`.

    Args:
        config: the composed configuration.
        live: for a node's full key, the parameters that the caller will supply when building.

    Raises:
        ConfigError: lists every problem with its full key.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    problems = [f"{key}: a value is required; say {key}=..." for key in missing]
    if not problems:
        plain = OmegaConf.to_container(config, resolve=True)
        problems = list(_walk("", plain, {key: set(names) for key, names in live.items()}))
    if problems:
        count = f"{len(problems)} problem" + "s" * (len(problems) > 1)
        listed = "\n".join(f"  {line}" for line in problems)
        raise ConfigError(f"the configuration has {count}:\n{listed}")


def _walk(key: str, value: Any, live: Mapping[str, set[str]]) -> Iterable[str]:
    if isinstance(value, dict):
        node = cast("dict[str, Any]", value)
        if "_target_" in node:
            yield from _check_node(key, node, live.get(key, set()))
        for name, child in node.items():
            yield from _walk(f"{key}.{name}" if key else str(name), child, live)
    elif isinstance(value, list):
        for i, child in enumerate(cast("list[Any]", value)):
            yield from _walk(f"{key}[{i}]", child, live)


def _check_node(key: str, node: dict[str, Any], live: set[str]) -> Iterable[str]:
    target = node["_target_"]
    try:
        made = get_object(str(target))
    except Exception as error:  # whatever the import of a user's module raises is the finding
        yield f"{key}._target_: cannot import {target!r}: {error.__cause__ or error}".strip()
        return
    parameters, hints = _signature(made)
    named = {n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        if name in HYDRA_KEYS:
            continue
        if name not in named and not open_ended:
            hint = did_you_mean(name, named - live)
            yield f"{key}.{name}: {target} has no parameter {name!r}{hint}"
        elif name in live:
            yield f"{key}.{name}: this parameter is supplied by the run and cannot be configured"
        elif name in hints and (found := _mismatch(value, hints[name])):
            yield f"{key}.{name}: {found}{_as_choice(f'{key}.{name}', value)}"
    if not node.get("_partial_", False) and not node.get("_args_"):
        for name in named - live - set(node):
            if parameters[name].default is inspect.Parameter.empty:
                yield f"{key}.{name}: {target} needs this parameter; say {key}.{name}=..."


def _signature(made: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    function: Callable[..., Any] = made.__init__ if inspect.isclass(made) else made
    try:
        return dict(inspect.signature(made).parameters), get_type_hints(function)
    except (TypeError, ValueError, NameError):  # a builtin, or annotations that name nothing
        return dict(inspect.signature(made).parameters), {}


def _mismatch(value: Any, hint: Any) -> str | None:
    """What is wrong with `value` for the annotation `hint`, or None."""
    if _fits(value, hint):
        return None
    shown = f"{value!r} ({type(value).__name__})"
    if get_origin(hint) is Literal and isinstance(value, str):
        near = nearest(value, [str(a) for a in get_args(hint)])
        return f"{shown} is not one of {_name(hint)}{near}"
    as_list = f"; a list is written [{value}]" if _fits([value], hint) else ""
    return f"{shown} is not {_name(hint)}{as_list}"


def _as_choice(key: str, value: Any) -> str:
    """What a name that stands where a node belongs was meant to be: algo.lr_schedule=cosine."""
    group = key.replace(".", "/")
    known = isinstance(value, str) and (config_dir() / group / f"{value}.yaml").is_file()
    return f"; choose one with {group}={value}" if known else ""


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (Any, inspect.Parameter.empty):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    container = origin or hint
    if container in (list, tuple, Sequence) and isinstance(value, list):
        inner = arguments[0] if arguments else Any
        return all(_fits(item, inner) for item in cast("list[Any]", value))
    if container in (dict, Mapping) and isinstance(value, dict):
        inner = arguments[1] if len(arguments) == 2 else Any
        return all(_fits(item, inner) for item in cast("dict[str, Any]", value).values())
    if isinstance(value, dict) and "_target_" in value:
        return True  # an object of its own: its node is checked by itself
    if container in (list, tuple, Sequence, dict, Mapping):
        return False
    return value is not None and not isinstance(value, (str, int, float, list, dict))


def _name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(_name(option) for option in arguments)
    if origin is Literal:
        return ", ".join(repr(option) for option in arguments)
    if arguments:
        return f"a {getattr(origin, '__name__', origin)} of {_name(arguments[-1])}"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(
        hint, f"a node with a _target_ that makes {getattr(hint, '__name__', hint)}"
    )
