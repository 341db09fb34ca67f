"""What a misspelt word was probably meant to be; every message that proposes one asks here."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

NEAR = 0.6  # difflib's own measure of a close match
AS_NEAR = 0.15  # behind the nearest word


def proposals(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words: `word` with something before or after it, then similar ones."""
    names = sorted(known)
    longer = [name for name in names if name.startswith(f"{word}_") or name.endswith(f"_{word}")]
    by_end = sorted(longer, key=lambda name: not name.endswith(f"_{word}"))
    likeness = {name: SequenceMatcher(None, word.lower(), name.lower()).ratio() for name in names}
    best = max(likeness.values(), default=0.0)
    least = best if best == 1.0 else max(NEAR, best - AS_NEAR)
    near = sorted(
        (name for name in names if likeness[name] >= least), key=lambda name: -likeness[name]
    )
    return list(dict.fromkeys([*near, *by_end]))[:3]


def question(names: Iterable[str]) -> str:
    """`; did you mean 'a', 'b' or 'c'?`, or nothing for no names."""
    *most, last = [repr(name) for name in names] or [""]
    start = f"{', '.join(most)} or " if most else ""
    return f"; did you mean {start}{last}?" if last else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lr'?`, or nothing when no known word is near."""
    return question(proposals(word, known))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lr'?`, or the whole list when nothing is near and the list is short."""
    names = sorted(known)
    listing = f"; it has {', '.join(names)}" if 0 < len(names) <= 40 else ""
    return nearest(word, names) or listing
