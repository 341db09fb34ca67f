"""Hydra's refusals in our words: which word is wrong, what was probably meant, what there is.

Hydra speaks of its structures (`not in struct`, `To append to your config`); who typed a key wants
to know the right one. What is not known here is said as Hydra says it.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rmexp.config import config_dir
from rmexp.run_dir import flatten
from rmexp.suggest import nearest, proposals, question

TYPES = {"Integer": "an integer", "Float": "a number"}
LISTED = 40
"""A longer list of keys helps nobody."""


def explain(error: Exception, typed: Sequence[str]) -> str:
    """The message of an error that ended the command; `typed` are the words of the command."""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return str(error).strip()
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        return _unknown_choice(error, typed)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    for part in (error, error.__cause__ or error.__context__):
        if isinstance(part, (ConfigAttributeError, ConfigKeyError)):
            return _file(error) + _unknown_key(str(_full_key(part)), typed)
        if isinstance(part, OmegaConfBaseException):
            return _file(error) + _unfit_value(part, typed)
    return _by_its_text(str(error).strip(), typed)


def _unknown_choice(error: MissingConfigException, typed: Sequence[str]) -> str:
    found = re.search(r"Available options in '(.+)':", str(error))
    group = found.group(1) if found else str(error.missing_cfg_file).rpartition("/")[0]
    files = (file for folder in _folders(typed) for file in sorted((folder / group).glob("*.yaml")))
    options = [str(option) for option in error.options or sorted(file.stem for file in files)]
    name = str(error.missing_cfg_file).removeprefix(f"{group}/")
    was_typed = any(word.endswith(f"={name}") or name in _values(word) for word in typed)
    place = "" if was_typed else _file(error)
    if group == "dataset" and ("/" in name or name.endswith((".hdf5", ".h5"))):
        return f"{place}dataset={name}: a file is given with dataset=hdf5 dataset.path={name}"
    near = nearest(name, options)
    listed = _wrapped(f"{group} is one of: {', '.join(options)}")
    return f"{place}{group}={name}: there is no such choice{near}\n{listed}"


def _unreadable(error: OverrideParseException) -> str:
    word = error.override
    key, equals, value = word.partition("=")
    if not equals:
        return (
            f"{word}: every word is key=value, for example algo=bc or algo.lr=1e-3; "
            "--help lists the keys"
        )
    reason = str(error.__cause__ or error).strip().splitlines()[0]
    remedy = f"text with special characters stands in quotes: \"{key}='{value}'\""
    return f"{word}: cannot be read as key=value ({reason}); {remedy}"


def _unknown_key(key: str, typed: Sequence[str]) -> str:
    word = next((w for w in typed if re.match(rf"[+~]*{re.escape(key)}[.=]", f"{w}=")), key)
    if "/" in key:
        groups = _groups(typed)
        return f"{word}: there is no group {key!r}{nearest(key, groups)}"
    parent, _, name = key.rpartition(".")
    config = _composed(typed)
    node: Any = OmegaConf.select(config, parent) if parent else config
    if parent and not isinstance(node, DictConfig):
        fault = "there is no such key" if node is None else f"it has the value {node!r}"
        return f"{word}: no key can stand below {parent}: {fault}"
    siblings = [str(other) for other in node if other not in ("_target_", "hydra")]
    near = [f"{parent}.{other}" if parent else other for other in proposals(name, siblings)]
    meant = [*_elsewhere(name, config, sure=bool(near)), *near]
    listed = f"; it has {', '.join(sorted(siblings))}" if 0 < len(siblings) <= LISTED else ""
    place = parent or "the configuration"
    return f"{word}: {place} has no key {name!r}{question(meant[:4]) or listed}"


def _elsewhere(name: str, config: DictConfig, sure: bool) -> list[str]:
    """Full keys that end in `name`: right in itself, and typed in another place."""
    plain = OmegaConf.to_container(config, resolve=False)
    full = [key for key in flatten(plain) if not key.startswith("hydra.")]
    ends = (f".{name}",) if sure else (f".{name}", f"_{name}")
    return sorted((key for key in full if key.endswith(ends)), key=lambda key: key.count("."))[:3]


def _unfit_value(error: OmegaConfBaseException, typed: Sequence[str]) -> str:
    """A value of another type, or one that refers to nothing."""
    key, line = str(_full_key(error)), str(error).splitlines()[0]
    line = re.sub(r"^\w+ raised while resolving interpolation: ", "", line).strip('"')
    word = next((w for w in typed if w.partition("=")[0].lstrip("+") == key), key)
    needed = re.search(r"could not be converted to (\w+)", line)
    if needed:
        return f"{word}: {TYPES.get(needed.group(1), needed.group(1))} is needed"
    if "is not a valid bool" in line:
        return f"{word}: true or false is needed"
    if "is not a ListConfig" in line:
        return f"{word}: a list is needed: {key}=[{word.partition('=')[2]}]"
    return f"{word}: {line}"


def _by_its_text(text: str, typed: Sequence[str]) -> str:
    """What Hydra tells in its message alone."""
    first = text.splitlines()[0] if text else ""
    if found := re.search(r"Ambiguous value for argument '(.+)'", first):
        key, _, value = found.group(1).partition("=")
        return (
            f"{key}={value}: several values make a sweep, which -m starts; "
            f"one value that is a list is {key}=[{value}]"
        )
    if found := re.search(r"Sweep parameters '(.+)' requires", first):
        return f"{found.group(1)}: several values make a sweep, which -m starts"
    if found := re.search(r"Could not delete from config. '(.+)' does not exist", first):
        return _unknown_key(found.group(1), typed)
    if found := re.search(r"An item is already at '(.+)'", first):
        return f"+{found.group(1)}: there is such a key already; leave the + away"
    if found := re.search(r"Multiple values for (.+?)\. ", first):
        return f"+{found.group(1)}: one is chosen there already; leave the + away"
    if found := re.search(r"Additional config directory '(.+)' not found", first):
        return f"--config-dir: {found.group(1)}: no such directory; it holds algo/, dataset/ ..."
    if found := re.search(r"Could not override '(.+)'\.", first):
        return _no_such_part(found.group(1), text, typed)
    return re.split(r"\s*\n(?:Config search path:|See https:)", text)[0]


def _no_such_part(key: str, text: str, typed: Sequence[str]) -> str:
    """A group that the chosen configuration does not choose from."""
    word = next((w for w in typed if w.partition("=")[0] == key), key)
    found = re.search(r"Did you mean to override (?:one of )?(.+)\?", text)
    parts = found.group(1).split(", ") if found else []
    group = re.split("[/@]", key)[0]
    chosen = ", ".join(w for w in typed if w.startswith(f"{group}="))
    where = f" with {chosen}" if chosen else ""
    listed = f"; only at {', '.join(parts)}" if parts else ""
    return f"{word}: there is nothing to choose at {key!r}{where}{nearest(key, parts) or listed}"


def _file(error: Exception) -> str:
    """`experiment/mine.yaml: ` where a file is at fault, nothing where the command line is."""
    found = re.match(r"In '([^']+)'", str(error))
    return f"{found.group(1)}.yaml: " if found and found.group(1) != "config" else ""


def _full_key(error: BaseException) -> Any:
    return getattr(error, "full_key", None) or getattr(error, "key", None) or "the configuration"


def _values(word: str) -> list[str]:
    """What a word names, several in a sweep or a list: algo=bc,bcc -> bc, bcc."""
    return word.partition("=")[2].strip("[]").split(",")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")


def _composed(typed: Sequence[str]) -> DictConfig:
    """The configuration of the choices alone, without the values."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    folders = _folders(typed)
    pairs = [(word.partition("=")[0], _values(word)[0]) for word in typed]
    choices = [
        f"{group}={name}"
        for group, name in pairs
        if name and any((f / group.partition("@")[0] / f"{name}.yaml").is_file() for f in folders)
    ]
    searched = ",".join(f"'file://{folder}'" for folder in folders[1:])
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            words = [f"hydra.searchpath=[{searched}]", *choices]
            return compose("config", overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):  # the choice itself is what is wrong
        return OmegaConf.create()


def _groups(typed: Sequence[str]) -> list[str]:
    """`algo`, `algo/head` and so on."""
    return sorted(
        {
            file.parent.relative_to(folder).as_posix()
            for folder in _folders(typed)
            for file in sorted(folder.rglob("*/*.yaml"))
        }
    )


def _folders(typed: Iterable[str]) -> list[Path]:
    """Where configurations lie: the shipped ones, then the user's own."""
    options = [word for argument in typed for word in argument.split("=", 1)]
    given = [b for a, b in pairwise(options) if a in ("--config-dir", "-cd")]
    lab = os.environ.get("RMEXP_CONFIG_DIR")
    return [config_dir(), *(Path(f).resolve() for f in (*given, *([lab] if lab else [])))]
