"""Every random number an algorithm uses comes from one of these objects, never from a global state.

So an algorithm's noise is checkpointed, replayed in tests, and the same whatever else a run does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Draws(Protocol):
    """A source of random tensors; the first axis of `shape` is the batch."""

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Standard normal, float32."""
        ...

    def rand(self, shape: Sequence[int]) -> Tensor:
        """Uniform in [0, 1), float32."""
        ...

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        """Uniform in [low, high), float32."""
        ...

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in [low, high), int64."""
        ...

    def exponential(self, shape: Sequence[int]) -> Tensor:
        """Exponential with mean 1, float32."""
        ...

    # Made of those above; they have names of their own because recorded draws may be of them.

    def normal(self, mean: Tensor, std: Tensor | float) -> Tensor:
        """Normal, in the shape and precision of `mean`."""
        return mean + std * self.randn(mean.shape)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """(..., K) that add up to 1 -> (...), int64: which of the K."""
        uniform = self.rand((*probabilities.shape[:-1], 1))
        cumulative = probabilities.to(uniform.device).cumsum(-1)
        return (cumulative < uniform).sum(-1).clamp(max=probabilities.shape[-1] - 1)

    def mixture(self, probabilities: Tensor, means: Tensor, stds: Tensor | float) -> Tensor:
        """A normal of K: (..., K), (..., K, A), (..., K, A) or one number -> (..., A)."""
        chosen = self.categorical(probabilities)
        index = chosen[..., None, None].expand(*chosen.shape, 1, means.shape[-1])
        mean = means.gather(-2, index).squeeze(-2)
        std = stds.gather(-2, index).squeeze(-2) if isinstance(stds, Tensor) else stds
        return mean + std * self.randn(mean.shape)


def component(values: Tensor, chosen: Tensor) -> Tensor:
    """values (..., K, A), chosen (...) -> (..., A)."""
    index = chosen[..., None, None].expand(*chosen.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


class SeededDraws(Draws):
    """Draws from one generator on `device`."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, device=self.device)

    def rand(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        drawn = torch.rand(tuple(shape), generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        return torch.randint(low, high, tuple(shape), generator=self.generator, device=self.device)

    def exponential(self, shape: Sequence[int]) -> Tensor:
        empty = torch.empty(tuple(shape), device=self.device)
        return empty.exponential_(generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class EpisodeDraws(Draws):
    """Row i of every draw comes from the generator of the episode in row i.

    What an episode draws thereby depends on its own seed alone and not on which other episodes
    happen to be acted for in the same batch. Always on the CPU, moved to `device` afterwards.
    """

    def __init__(self, rows: Sequence[SeededDraws], device: torch.device) -> None:
        self.rows = rows
        self.device = device

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self._stack([row.randn(shape[1:]) for row in self._rows(shape)])

    def rand(self, shape: Sequence[int]) -> Tensor:
        return self._stack([row.rand(shape[1:]) for row in self._rows(shape)])

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        return low + (high - low) * self.rand(shape)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        return self._stack([row.randint(low, high, shape[1:]) for row in self._rows(shape)])

    def exponential(self, shape: Sequence[int]) -> Tensor:
        return self._stack([row.exponential(shape[1:]) for row in self._rows(shape)])

    def _rows(self, shape: Sequence[int]) -> Sequence[SeededDraws]:
        assert shape[0] == len(self.rows), (shape, len(self.rows))
        return self.rows

    def _stack(self, drawn: list[Tensor]) -> Tensor:
        return torch.stack(drawn).to(self.device)


def draws_of_rows(draws: Draws, rows: Sequence[int], device: torch.device) -> Draws:
    """What these rows of a batch draw when they are a batch of their own."""
    if isinstance(draws, EpisodeDraws):
        return EpisodeDraws([draws.rows[row] for row in rows], device)
    return draws


class PartialDraws(Draws):
    """Only `rows` of the batch draw; the others get zeros, and their generators stay as they are.

    So what an episode draws does not depend on when the others in its batch have to draw.
    """

    def __init__(self, draws: Draws, rows: Sequence[int], device: torch.device) -> None:
        self.draws = draws_of_rows(draws, rows, device)
        self.rows = torch.tensor(rows, device=device)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self._spread(self.draws.randn(self._fewer(shape)), shape)

    def rand(self, shape: Sequence[int]) -> Tensor:
        return self._spread(self.draws.rand(self._fewer(shape)), shape)

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        return self._spread(self.draws.uniform(low, high, self._fewer(shape)), shape)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        return self._spread(self.draws.randint(low, high, self._fewer(shape)), shape)

    def exponential(self, shape: Sequence[int]) -> Tensor:
        return self._spread(self.draws.exponential(self._fewer(shape)), shape)

    def _fewer(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (len(self.rows), *shape[1:])

    def _spread(self, drawn: Tensor, shape: Sequence[int]) -> Tensor:
        return drawn.new_zeros(tuple(shape)).index_copy_(0, self.rows, drawn)
