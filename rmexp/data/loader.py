"""Batches in an order that is a function of (seed, pass), so that a position is two integers.

Training continues: a new `iter` goes on where the last one stopped, and only the batches that were
handed out count. Validation is one pass in order, every window once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmexp.data.batches import Batch
from rmexp.errors import CheckpointError

READ_AHEAD = 3

Order = Callable[[int], np.ndarray]
"""pass_index -> (n,) int64 window numbers."""


def shuffled(count: int, seed: int) -> Order:
    """Every window once a pass."""
    return lambda pass_index: np.random.default_rng((seed, pass_index)).permutation(count)


def weighted(counts: Sequence[int], weights: Sequence[float], seed: int) -> Order:
    """As many windows a pass as there are, each drawn from file i with probability weights[i]."""
    probabilities = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    first = np.cumsum(counts) - np.asarray(counts)
    total = int(np.sum(counts))

    def order(pass_index: int) -> np.ndarray:
        rng = np.random.default_rng((seed, pass_index))
        chosen = rng.choice(len(counts), size=total, p=probabilities)
        windows = np.empty(total, dtype=np.int64)
        for i, count in enumerate(counts):
            slots = np.flatnonzero(chosen == i)
            rounds = [rng.permutation(count) for _ in range(-(-len(slots) // count))]
            if rounds:
                windows[slots] = first[i] + np.concatenate(rounds)[: len(slots)]
        return windows

    return order


def in_order(count: int) -> Order:
    return lambda _: np.arange(count)


class Loader:
    """Iterable of batches with a length and a position."""

    def __init__(
        self,
        assemble: Callable[[Tensor], Batch],
        order: Order,
        *,
        num_windows: int,
        batch_size: int,
        seed: int | None,
        home: torch.device,
        device: torch.device,
        prefetch: bool,
        together: int,
    ) -> None:
        """`seed` None means validation; `home` is where the data lies, `device` where it goes.

        `together` batches are gathered at once: with small frames the calls cost, not the bytes.
        """
        self.batch_size = batch_size
        self._assemble = assemble
        self._order_of = order
        self._num_windows = num_windows
        self._seed = seed
        self._home, self._device = home, device
        self._pin = home.type == "cpu" and device.type == "cuda"
        self._pass_index = 0
        self._position = 0
        self._order: tuple[int, Tensor] | None = None
        self._together = together
        self._gathered: dict[tuple[int, int], Batch] = {}
        self._worker = ThreadPoolExecutor(1, "rmexp-prefetch") if prefetch else None
        self._ahead: deque[tuple[tuple[int, int], Future[Batch]]] = deque()

    def __len__(self) -> int:
        if self._seed is None:
            return -(-self._num_windows // self.batch_size)
        return self._num_windows // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        if self._seed is None:
            self._pass_index = self._position = 0
        current = self._pass_index
        while self._pass_index == current:
            batch = self._next_batch()
            self._pass_index, self._position = self._after(self._pass_index, self._position)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"pass_index": self._pass_index, "position": self._position} | self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError when the order would not be the one that was interrupted."""
        for key, value in self._identity().items():
            if state.get(key, value) != value:
                raise CheckpointError(
                    f"the data order cannot be continued: {key} was {state[key]} and is {value}; "
                    "resume with the same data set, batch size and seed"
                )
        self._pass_index, self._position = int(state["pass_index"]), int(state["position"])

    def _identity(self) -> dict[str, Any]:
        return {
            "num_windows": self._num_windows,
            "batch_size": self.batch_size,
            "seed": self._seed,
        }

    def _after(self, pass_index: int, position: int) -> tuple[int, int]:
        return (pass_index, position + 1) if position + 1 < len(self) else (pass_index + 1, 0)

    def _next_batch(self) -> Batch:
        if self._worker is None:
            return self._to_device(self._make(self._pass_index, self._position))
        wanted = (self._pass_index, self._position)
        if self._ahead and self._ahead[0][0] != wanted:
            self._ahead.clear()
        while len(self._ahead) < READ_AHEAD:
            last = self._ahead[-1][0] if self._ahead else None
            place = wanted if last is None else self._after(*last)
            if self._seed is None and place[0] != self._pass_index:
                break  # the next validation may be far away
            self._ahead.append((place, self._worker.submit(self._make, *place)))
        return self._to_device(self._ahead.popleft()[1].result())

    def _make(self, pass_index: int, position: int) -> Batch:
        place = (pass_index, position)
        if place not in self._gathered:
            batches = enumerate(self._gather(pass_index, position), start=position)
            self._gathered = {(pass_index, at): batch for at, batch in batches}
        return self._gathered.pop(place)

    def _gather(self, pass_index: int, position: int) -> list[Batch]:
        """The batches from `position` on."""
        if self._order is None or self._order[0] != pass_index:
            order = torch.from_numpy(self._order_of(pass_index)).to(self._home)
            self._order = (pass_index, order)
        start = position * self.batch_size
        index = self._order[1][start : start + self._together * self.batch_size]
        batch = self._assemble(index)
        if self._pin:
            batch = _map(batch, Tensor.pin_memory)
        return _split(batch, self.batch_size) if self._together > 1 else [batch]

    def _to_device(self, batch: Batch) -> Batch:
        if self._home == self._device:
            return batch
        return _map(batch, lambda tensor: tensor.to(self._device, non_blocking=True))


def _map(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return {k: _map(v, change) if isinstance(v, dict) else change(v) for k, v in batch.items()}


def _split(batch: Batch, size: int) -> list[Batch]:
    parts = [_split(v, size) if isinstance(v, dict) else v.split(size) for v in batch.values()]
    return [dict(zip(batch, values, strict=True)) for values in zip(*parts, strict=True)]
