"""Recorded random numbers in place of fresh ones, in the order in which they were drawn."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rmexp.algo.base import Algo
from rmexp.draws import SeededDraws, component
from rmexp.errors import RmexpError

Record = tuple[str, Any]
"""The function that drew, and what it returned."""

NORMAL = ("normal_", "normal", "randn", "randn_like")
UNIFORM = ("uniform_", "rand", "rand_like")
INTEGER = ("randint", "randint_like", "random_")
CATEGORICAL = ("multinomial", "categorical")
DRAWN = ("normal",)  # torch.normal(mean, std), as distributions call it: with mean and width in it


class ReplayError(RmexpError):
    """An algorithm drew something else than what was recorded."""


class ReplayedDraws:
    """A source of draws that hands out `records`, one a call."""

    def __init__(self, records: Sequence[Record], device: torch.device) -> None:
        self.records = list(records)
        self.used = 0
        self.device = device

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self._next("standard normal numbers", NORMAL, shape)[1].float()

    def rand(self, shape: Sequence[int]) -> Tensor:
        return self._next("uniform numbers", UNIFORM, shape)[1].float()

    def exponential(self, shape: Sequence[int]) -> Tensor:
        return self._next("exponential numbers", ("exponential_",), shape)[1].float()

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        """As drawn: a record of `uniform_` is in its range already, one of `rand` in [0, 1)."""
        function, value = self._next(f"uniform numbers in [{low}, {high})", UNIFORM, shape)
        value = value.float() if function == "uniform_" else low + (high - low) * value.float()
        if not bool(((value >= low) & (value <= high)).all()):
            raise ReplayError(f"draw {self.used - 1} ({function}) is not within [{low}, {high}]")
        return value

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        function, value = self._next(f"integers in [{low}, {high})", INTEGER, shape)
        if not bool(((value >= low) & (value < high)).all()):
            raise ReplayError(f"draw {self.used - 1} ({function}) is not within [{low}, {high})")
        return value.long()

    def normal(self, mean: Tensor, std: Tensor | float) -> Tensor:
        """As drawn: a record of `normal` has its mean and width already."""
        if self._next_is(DRAWN):
            return self._next("normal numbers", DRAWN, mean.shape)[1].to(mean.dtype)
        return mean + std * self.randn(mean.shape)

    def categorical(self, probabilities: Tensor) -> Tensor:
        *lead, count = probabilities.shape
        function, value = self._next(f"one of {count}", CATEGORICAL, lead, flat=True)
        if not bool(((value >= 0) & (value < count)).all()):
            raise ReplayError(f"draw {self.used - 1} ({function}) is not within [0, {count})")
        return value.long()

    def mixture(self, probabilities: Tensor, means: Tensor, stds: Tensor | float) -> Tensor:
        """As `torch.distributions` does it: a choice, then a draw of every component."""
        chosen = self.categorical(probabilities)
        if self._next_is(DRAWN):
            return component(self._next("normal numbers", DRAWN, means.shape)[1], chosen).to(means)
        std = component(stds, chosen) if isinstance(stds, Tensor) else stds
        return component(means, chosen) + std * self.randn((*chosen.shape, means.shape[-1]))

    def finish(self) -> None:
        """Raise if something is left."""
        if self.used < len(self.records):
            left = ", ".join(f"{name} {np.shape(a)}" for name, a in self.records[self.used :])
            raise ReplayError(
                f"{self.used} of {len(self.records)} recorded draws were used; left are {left}"
            )

    def _next_is(self, functions: Sequence[str]) -> bool:
        return self.used < len(self.records) and _function(self.records[self.used]) in functions

    def _next(
        self, wanted: str, functions: Sequence[str], shape: Sequence[int], *, flat: bool = False
    ) -> tuple[str, Tensor]:
        """`flat`: only the number of elements counts."""
        if self.used == len(self.records):
            raise ReplayError(f"{wanted} {tuple(shape)} asked for after all {self.used} records")
        array, function = self.records[self.used][1], _function(self.records[self.used])
        value = torch.from_numpy(np.array(array)) if not isinstance(array, Tensor) else array
        fits = value.numel() == prod(shape) if flat else _alike(tuple(value.shape), tuple(shape))
        if function not in functions or not fits:
            raise ReplayError(
                f"draw {self.used}: the algorithm asks for {wanted} {tuple(shape)}, recorded is "
                f"{function} {tuple(value.shape)}"
            )
        self.used += 1
        return function, value.reshape(tuple(shape)).to(self.device)


def _function(record: Record) -> str:
    return record[0].lstrip("0123456789_")  # `000_randn` is how a file numbers them


def _alike(recorded: tuple[int, ...], asked: tuple[int, ...]) -> bool:
    """The same but for axes of one, or leading axes joined there: (80, 7) for (8, 10, 7)."""
    there, here = ([size for size in shape if size != 1] for shape in (recorded, asked))
    if len(there) == len(here):
        return there == here
    return recorded[-1:] == asked[-1:] and prod(recorded) == prod(asked)


@contextmanager
def replay_draws(algo: Algo, records: Sequence[Record]) -> Generator[ReplayedDraws]:
    """Within it `algo` draws `records`, whatever for: training, validation or acting.

    Args:
        algo: its own generators stay as they are, and are back at the end.
        records: (function, array) in the order of the calls, as recorded of `torch` in another
            implementation: `normal_`, `randn`, `randn_like`, `uniform_` (in its range), `rand`,
            `normal` (with its mean and width, where a mixture or an actor is drawn from),
            `randint`, `exponential_`, `multinomial`; a number in front of the name is allowed
            (`003_randn`).

    Raises:
        ReplayError: something else was asked for, or something is left at the end.
    """
    own = dict(algo.draws)
    replayed = ReplayedDraws(records, algo.device)
    for purpose in own:
        algo.draws[purpose] = cast("SeededDraws", replayed)
    try:
        yield replayed
    finally:
        algo.draws.update(own)
    replayed.finish()
