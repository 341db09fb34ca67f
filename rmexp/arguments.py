"""The `key=value` grammar of every command beside the main one, from a dataclass.

A field is an argument: its type is checked, its default is the default, its metadata say what it
is for. A field without a default is required.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.errors import ConfigError, RmexpError
from rmexp.suggest import nearest

T = TypeVar("T")
HELP_FLAGS = ("--help", "-h", "help")


def argument(help: str, *, default: Any = MISSING, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field that `parse` can fill and explain."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, list):
        values = cast("list[Any]", default)
        return field(default_factory=lambda: list(values), metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(schema: type[T], argv: Sequence[str], *, prog: str) -> T:
    """An instance of the dataclass `schema`, filled from `key=value` words.

    Raises ConfigError for an unknown, ill-typed or missing argument. `--help` prints all of them
    and exits.
    """
    known = {item.name: item for item in fields(cast("Any", schema))}
    if any(word in HELP_FLAGS for word in argv):
        sys.stdout.write(help_text(schema, prog=prog))
        raise SystemExit(0)
    for word in argv:
        key, equals, _ = word.partition("=")
        if not equals:
            first = next(iter(known))
            raise ConfigError(
                f"{prog}: {word!r} is not key=value, such as {first}={word}; {_listing(known)}"
            )
        if key not in known:
            raise ConfigError(
                f"{prog}: no argument {key!r}{nearest(key, known)}; {_listing(known)}"
            )
    values = _typed(schema, argv, prog)
    for name, item in known.items():
        if name not in values:
            raise ConfigError(f"{prog}: {name}=... is required: {item.metadata['help']}")
        choices = item.metadata.get("choices")
        if choices and values[name] not in choices:
            near = nearest(str(values[name]), choices)
            raise ConfigError(f"{prog}: {name}={values[name]}{near}; choose {' | '.join(choices)}")
    return schema(**values)


def help_text(schema: type, *, prog: str) -> str:
    """Usage, the first paragraph of the schema's docstring, and one line an argument."""
    summary = (schema.__doc__ or "").strip().split("\n\n")[0]
    items = fields(cast("Any", schema))
    words = [f"{item.name}={_default(item)}" for item in items]
    width = max(map(len, words), default=0)
    lines = [f"usage: {prog} key=value ...", "", summary, ""]
    for word, item in zip(words, items, strict=True):
        choices = item.metadata.get("choices")
        tail = f" ({' | '.join(choices)})" if choices else ""
        lines.append(f"  {word:<{width}}  {item.metadata['help']}{tail}")
    return "\n".join(lines) + "\n"


def run_command(
    schema: type[T], run: Callable[[T], None], *, prog: str, argv: Sequence[str] | None = None
) -> int:
    """Parse, run, and give the exit code: 0, 1 after one clear message, 130 after Ctrl-C.

    SIGTERM counts as Ctrl-C, so that `run` cleans up behind it in the same way.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(parse(schema, sys.argv[1:] if argv is None else argv, prog=prog))
    except RmexpError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt as interruption:
        sys.stderr.write(f"interrupted{f': {interruption}' if interruption.args else ''}\n")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _typed(schema: type, argv: Sequence[str], prog: str) -> dict[str, Any]:
    """Values by name: the given ones converted to the field's type, and the defaults."""
    config = OmegaConf.structured(schema)
    for word in argv:
        try:
            config.merge_with_dotlist([word])
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{prog}: {word}: {reason}") from error
    names: list[str] = [name for name in config if not OmegaConf.is_missing(config, name)]
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    return {name: plain[name] for name in names}


def _default(item: Field[Any]) -> str:
    if item.default_factory is not MISSING:
        return str(item.default_factory()).replace("'", "").replace(" ", "")
    if item.default is MISSING:
        return "..."
    if item.default is None or isinstance(item.default, bool):
        return json.dumps(item.default)
    return str(item.default)


def _listing(known: Mapping[str, Any]) -> str:
    return f"the arguments are {', '.join(known)} (--help explains them)"
