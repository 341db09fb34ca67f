"""Averages over an epoch that stay on the device and are read once, at its end."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any

import torch

from rmexp.errors import NonFiniteError

Value = torch.Tensor | float


class EpochProgress:
    """How far an epoch has come: steps done and what each of them reported.

    It is the part of an epoch that a run interrupted in its middle must carry over.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._reports: list[tuple[int, dict[str, Value]]] = []  # batch size, name -> value

    def add(self, info: Mapping[str, Value], batch_size: int) -> None:
        """Record one step's `info` (name -> 0-d tensor or float), weighted by its batch size."""
        self.steps += 1
        self.samples += batch_size
        self._reports.append((batch_size, {name: _kept(value) for name, value in info.items()}))

    def latest(self, name: str) -> float | None:
        """The newest value of one metric; waits for the device."""
        return next(
            (float(info[name]) for _, info in reversed(self._reports) if name in info), None
        )

    def averages(self) -> dict[str, float]:
        """Each metric's mean over the steps that reported it, weighted by batch size."""
        self._read()
        weighted: dict[str, list[float]] = {}
        weights: dict[str, int] = {}
        for size, info in self._reports:
            for name, value in info.items():
                weighted.setdefault(name, []).append(float(value) * size)
                weights[name] = weights.get(name, 0) + size
        return {name: math.fsum(terms) / weights[name] for name, terms in weighted.items()}

    def require_finite(self, place: str) -> None:
        """Raise NonFiniteError at the first step (from 1) that reported NaN or infinity.

        Args:
            place: what stands before the step in the message, such as `epoch 3, training`.
        """
        self._read()
        for step, (_, info) in enumerate(self._reports, start=1):
            bad = [name for name, value in info.items() if not math.isfinite(float(value))]
            if bad:
                raise NonFiniteError(f"{place} step {step}: not finite: {', '.join(bad)}")

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; averages after `load_state_dict` are equal bit for bit."""
        self._read()
        return {
            "batch_sizes": [size for size, _ in self._reports],
            "infos": [dict(info) for _, info in self._reports],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        infos = [dict(info) for info in state["infos"]]
        self._reports = list(zip(state["batch_sizes"], infos, strict=True))
        self.steps, self.samples = len(infos), sum(state["batch_sizes"])

    def _read(self) -> None:
        """Turn what is still on the device into numbers, in one transfer."""
        places = [
            (info, name)
            for _, info in self._reports
            for name, value in info.items()
            if isinstance(value, torch.Tensor)
        ]
        if places:
            stacked = torch.stack([torch.as_tensor(info[name]).float() for info, name in places])
            for (info, name), value in zip(places, stacked.tolist(), strict=True):
                info[name] = value


def require_finite_state(state: Any, place: str) -> None:
    """Raise NonFiniteError if a tensor in nested dicts and lists holds NaN or infinity.

    A step can ruin the weights after it has reported a finite loss and gradient.

    Args:
        state: such as the networks and optimisers of a checkpoint that is about to be written.
        place: what stands before the names in the message, such as `epoch 3`.
    """
    tensors = {n: t for n, t in _tensors(state, "") if t.is_floating_point() and t.numel()}
    if not tensors:
        return
    largest = torch._foreach_norm(  # pyright: ignore[reportPrivateImportUsage]
        list(tensors.values()), math.inf
    )
    finite = torch.stack([value.float() for value in largest]).isfinite().tolist()
    bad = [name for name, good in zip(tensors, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteError(f"{place}: not finite: {', '.join(bad[:3])}{more}")


def _tensors(value: Any, name: str) -> Generator[tuple[str, torch.Tensor]]:
    """Every tensor with its keys, joined by dots."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _tensors(child, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, child in enumerate(value):
            yield from _tensors(child, f"{name}[{i}]")


def _kept(value: Value) -> Value:
    """A tensor on a GPU stays one until the epoch's end; reading it would wait for the device.

    On the CPU reading is free, and small tensors that live on would scatter the heap: the buffers
    of each step no longer fit where those of the last one were, and come in fresh pages.
    """
    if isinstance(value, torch.Tensor):
        return value.item() if value.is_cpu else value.detach()
    return value


def batch_size_of(batch: Any) -> int:
    """The length of the first tensor in a nested batch; 1 if there is none."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.ndim else 1
    if isinstance(batch, Mapping):
        for value in batch.values():
            if isinstance(value, (Mapping, torch.Tensor)):
                return batch_size_of(value)
    return 1
