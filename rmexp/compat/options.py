"""Another program's configuration, read so that nothing in it is passed over in silence.

Every option is either taken, with its type checked, or declared to be without effect; whatever is
left over, missing or not to be had here is reported at once, by name. Values that come out are
numbers, booleans, lists of integers, or words from a list, so that text in a file from anywhere
goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.errors import ConfigError
from rmexp.suggest import did_you_mean

_REQUIRED: Any = object()


class Options:
    """Nested options, named by dotted paths below `place`, the name of the whole."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place = place
        self._values = _flat(values)
        self._left = dict(self._values)
        self._known = set(self._values)
        self._problems: list[str] = []
        self._sections: list[Options] = []

    def section(self, path: str) -> Options:
        """The options below `path`, named from there; what is wrong with them is reported here."""
        start = f"{path}."
        below = {k.removeprefix(start): v for k, v in self._values.items() if k.startswith(start)}
        self.ignore(path)
        self._sections.append(Options(f"{self.place}.{path}", below))
        return self._sections[-1]

    def number(self, path: str, default: Any = _REQUIRED) -> float:
        return self._take(path, default, "a number", _is_number)

    def number_or_null(self, path: str, default: Any = _REQUIRED) -> float | None:
        return self._take(path, default, "a number or null", lambda v: v is None or _is_number(v))

    def number_null_or(self, path: str, word: str) -> float | str | None:
        wanted = f"a number, null or {word!r}"
        return self._take(
            path, _REQUIRED, wanted, lambda v: v is None or v == word or _is_number(v)
        )

    def integer(self, path: str, default: Any = _REQUIRED) -> int:
        return self._take(path, default, "an integer", _is_integer)

    def integer_or_null(self, path: str, default: Any = _REQUIRED) -> int | None:
        return self._take(
            path, default, "an integer or null", lambda v: v is None or _is_integer(v)
        )

    def switch(self, path: str, default: Any = _REQUIRED) -> bool:
        return self._take(path, default, "true or false", lambda v: isinstance(v, bool))

    def integers(self, path: str, default: Any = _REQUIRED) -> list[int]:
        return list(self._take(path, default, "a list of integers", _all(_is_integer)))

    def numbers_or_null(self, path: str, default: Any = _REQUIRED) -> list[float] | None:
        known = _all(_is_number)
        value = self._take(path, default, "a list or null", lambda v: v is None or known(v))
        return None if value is None else list(value)

    def word(self, path: str, words: Mapping[Any, str], default: Any = _REQUIRED) -> str:
        """The word that rmexp has for the one that stands there; others are reported."""
        listed = ", ".join(repr(word) for word in words)
        value = self._take(path, default, f"one of those that rmexp has ({listed})", _among(words))
        return words[value] if _among(words)(value) else next(iter(words.values()))

    def word_or_null(self, path: str) -> str | None:
        """A name of the user's own: letters, digits, `_`, `-` and `.`; null when left out."""
        plain = re.compile(r"[\w.\-]+")
        wanted = "a name of letters, digits, _, - and . or null"
        return self._take(
            path, None, wanted, lambda v: v is None or (isinstance(v, str) and plain.fullmatch(v))
        )

    def only(self, path: str, *values: Any, default: Any = _REQUIRED) -> None:
        """An option that rmexp has no counterpart for: these values change nothing."""
        listed = ", ".join(repr(value) for value in values)
        self._take(path, default, f"{listed}, the only choice in rmexp", _among(values))

    def ignore(self, *paths: str) -> None:
        """Options that have no effect on what is built; what is below them neither."""
        for path in paths:
            below = [key for key in self._left if key == path or key.startswith(f"{path}.")]
            for key in below:
                del self._left[key]
            self._known.add(path)

    def listed(self, path: str) -> list[Any]:
        """A list, looked at but not taken."""
        value = self._values.get(path)
        return list(value) if isinstance(value, Sequence) else []

    def left(self) -> list[str]:
        """The options that nobody has asked for yet."""
        return list(self._left)

    def complain(self, path: str, problem: str) -> None:
        self._problems.append(f"{self.place}.{path}: {problem}")

    def problems(self) -> list[str]:
        """Everything that was wrong, and every option that nobody asked for."""
        asked = self._known - set(self._left)
        unknown = [
            f"{self.place}.{path}: rmexp knows no such option{did_you_mean(path, asked)}"
            for path in self._left
        ]
        return self._problems + unknown + [p for part in self._sections for p in part.problems()]

    def _take(self, path: str, default: Any, wanted: str, fits: Any) -> Any:
        value = self._values.get(path, _REQUIRED)
        self._left.pop(path, None)
        self._known.add(path)
        if value is _REQUIRED:
            if default is _REQUIRED:
                self.complain(path, f"it is missing; needed is {wanted}")
                return _placeholder(wanted)
            return default
        if not fits(value):
            self.complain(path, f"it is {value!r}; needed is {wanted}")
            return _placeholder(wanted)
        return value


def refuse(*read: Options) -> None:
    """One ConfigError for all that is wrong in `read`, if anything is."""
    problems = [line for options in read for line in options.problems()]
    if problems:
        listed = "\n".join(f"  {line}" for line in problems)
        raise ConfigError(f"this configuration of robomimic cannot be taken over:\n{listed}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _placeholder(wanted: str) -> Any:
    """Something to go on with until all problems are known."""
    return [1, 1] if "list" in wanted else 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all(fits: Any) -> Any:
    return lambda value: (
        isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, value))
    )


def _among(values: Any) -> Any:
    return lambda value: any(value == v and type(value) is type(v) for v in values)
