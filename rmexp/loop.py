"""One epoch: batches in, averaged metrics and timings out. Everything else stands around this.

The loop knows no algorithm: any object with these methods trains here, and any iterable of
batches feeds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from rmexp.metrics import EpochProgress, Value, batch_size_of
from rmexp.seeding import preserved_random_state
from rmexp.timing import Stopwatch

Batch = Any


class Model(Protocol):
    """What `run_epoch` needs of an algorithm (see `rmexp.algo.base.Algo` for the whole)."""

    def set_train(self) -> None: ...
    def set_eval(self) -> None: ...
    def process_batch_for_training(self, batch: Batch) -> Batch: ...
    def postprocess_batch_for_training(
        self, batch: Batch, obs_normalization_stats: Any = None
    ) -> Batch: ...
    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> Any: ...
    def on_gradient_step(self) -> None: ...
    def log_info(self, info: Any) -> Mapping[str, Value]: ...


class Batches(Protocol):
    """A finite iterable of batches, such as `rmexp.data.loader.Loader` or torch's `DataLoader`."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


def run_epoch(
    model: Model,
    data_loader: Batches,
    epoch: int,
    validate: bool = False,
    num_steps: int | None = None,
    obs_normalization_stats: Any = None,
    progress: EpochProgress | None = None,
) -> dict[str, float]:
    """Train or validate for one epoch.

    Args:
        model: the algorithm.
        data_loader: one pass gives `len(data_loader)` batches; it is iterated anew when exhausted.
        epoch: number of this epoch, from 1.
        validate: evaluate without gradients; leaves no trace in the model or any random generator.
        num_steps: number of batches; None is one pass.
        obs_normalization_stats: handed to `postprocess_batch_for_training`.
        progress: an epoch that was interrupted earlier goes on from here.

    Returns:
        Each metric's mean over the batches that reported it, weighted by batch size; seconds spent
        as `time/<part>_s`, which sum to `time/epoch_s`; `throughput/steps_per_s` and
        `throughput/samples_per_s`.

    Raises:
        NonFiniteError: a metric became NaN or infinite.
    """
    num_steps = len(data_loader) if num_steps is None else num_steps
    progress = EpochProgress() if progress is None else progress
    first_step, first_sample = progress.steps, progress.samples
    clock = Stopwatch(getattr(model, "device", None))
    after_step = getattr(model, "on_gradient_step", lambda: None)  # robomimic 0.3 has none
    model.set_eval() if validate else model.set_train()

    with torch.set_grad_enabled(not validate), preserved_random_state(validate):
        batches = _endless(data_loader)
        while progress.steps < num_steps:
            with clock("data_loading"):
                batch = next(batches)
            with clock("process_batch"):
                batch = model.process_batch_for_training(batch)
                batch = model.postprocess_batch_for_training(
                    batch, obs_normalization_stats=obs_normalization_stats
                )
            with clock("train_batch"):
                info = model.train_on_batch(batch, epoch, validate=validate)
                if not validate:
                    after_step()
            with clock("log_info"):
                progress.add(model.log_info(info), batch_size_of(batch))

        with clock("log_info"):
            row = progress.averages()
    progress.require_finite(f"epoch {epoch}, {'validation' if validate else 'training'}")
    return row | _speed(clock, progress.steps - first_step, progress.samples - first_sample)


def _endless(loader: Batches) -> Iterator[Batch]:
    """Pass after pass; the first one may be empty, because a loader may stand at a pass's end."""
    empty_passes = 0
    while empty_passes < 2:
        empty_passes += 1
        for batch in loader:
            empty_passes = 0
            yield batch
    raise ValueError(f"the loader yielded no batch: an empty {type(loader).__name__}")


def _speed(clock: Stopwatch, steps: int, samples: int) -> dict[str, float]:
    elapsed = clock.elapsed()
    row = {f"time/{part}_s": seconds for part, seconds in clock.totals().items()}
    row["time/epoch_s"] = elapsed
    row["throughput/steps_per_s"] = steps / elapsed
    row["throughput/samples_per_s"] = samples / elapsed
    return row
