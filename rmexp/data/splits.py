"""Which episodes train and which validate: filter keys, or a seeded draw by episode.

`auto` takes the file's own mask where it has one. A demo in both splits is an error, because a
validation loss on training data is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.errors import DatasetError
from rmexp.suggest import nearest

AUTO = "auto"


@dataclass(frozen=True)
class Split:
    """Demos of each part, in the file's order, and how they were chosen."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    how: str
    warnings: tuple[str, ...]


def split_demos(
    path: str,
    demos: Sequence[str],
    masks: Mapping[str, Sequence[str]],
    *,
    train_filter: str | None,
    valid_filter: str | None,
    valid_fraction: float,
    seed: int,
) -> Split:
    """Raises DatasetError for an unknown or empty filter key and for overlapping splits."""
    train_key = _resolve(train_filter, "train", masks)
    valid_key = _resolve(valid_filter, "valid", masks)
    candidates = (
        list(demos) if train_key is None else _listed(path, demos, masks, train_key, "train")
    )
    if valid_key is not None:
        valid = _listed(path, demos, masks, valid_key, "valid")
        if train_key is None:
            candidates = [demo for demo in candidates if demo not in set(valid)]
        both = sorted(set(candidates) & set(valid))
        if both:
            raise DatasetError(
                f"{path}: filter keys {train_key!r} and {valid_key!r} share {len(both)} demos "
                f"({', '.join(both[:3])}{', ...' if len(both) > 3 else ''}); choose two that are "
                "disjoint, or "
                "dataset.valid_filter=null to draw the validation episodes"
            )
        how = f"{train_key or 'the rest'}/{valid_key}"
        warnings: tuple[str, ...] = ()
    else:
        candidates, valid, warnings = _draw(path, candidates, valid_fraction, seed)
        how = f"{train_key or 'all'}, " + (
            f"{valid_fraction:g} drawn with seed {seed}" if valid else "no validation"
        )
    if not candidates:
        raise DatasetError(f"{path}: no demo is left to train on ({how})")
    return Split(tuple(candidates), tuple(valid), how, warnings)


def _resolve(given: str | None, usual: str, masks: Mapping[str, object]) -> str | None:
    if given != AUTO:
        return given
    return usual if usual in masks else None


def _listed(
    path: str, demos: Sequence[str], masks: Mapping[str, Sequence[str]], key: str, part: str
) -> list[str]:
    setting = f"dataset.{part}_filter={key}"
    if key not in masks:
        known = f"it has {', '.join(sorted(masks))}" if masks else "it has none (no group `mask`)"
        remedy = f"dataset.{part}_filter=auto takes what there is"
        raise DatasetError(
            f"{path}: {setting}: no filter key {key!r}{nearest(key, masks)}; {known}; {remedy}"
        )
    listed = set(masks[key])
    if not listed:
        raise DatasetError(f"{path}: {setting}: filter key {key!r} is empty; choose another one")
    missing = sorted(listed - set(demos))
    if missing:
        raise DatasetError(
            f"{path}: {setting}: filter key {key!r} names {missing[0]!r}, "
            "which `data` does not hold"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
        )
    return [demo for demo in demos if demo in listed]


def _draw(
    path: str, demos: list[str], fraction: float, seed: int
) -> tuple[list[str], list[str], tuple[str, ...]]:
    if fraction <= 0:
        return demos, [], ()
    if len(demos) < 2:
        return demos, [], (f"{path}: one demonstration only, nothing is left to validate on",)
    count = min(max(1, round(fraction * len(demos))), len(demos) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(demos))[:count].tolist())
    train = [demo for i, demo in enumerate(demos) if i not in chosen]
    return train, [demo for i, demo in enumerate(demos) if i in chosen], ()
