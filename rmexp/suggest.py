"""What a misspelt word was probably meant to be; every message that proposes one asks here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lr'?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lr'?`, or the whole list when nothing is near and the list is short."""
    names = sorted(known)
    listing = f"; it has {', '.join(names)}" if 0 < len(names) <= 40 else ""
    return nearest(word, names) or listing
