"""Batches of whole data sets against a model that slices one window after another."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.data.dataset import Dataset
from rmexp.errors import DatasetError
from tests.data.demo_files import SETTINGS

pytestmark = pytest.mark.faults


def write(path: Path, lengths: list[int], own_next: bool) -> None:
    """Every number tells its demo and its frame, so that a wrong row shows."""
    with h5py.File(path, "w") as file:
        for demo, length in enumerate(lengths):
            frames = (demo + np.arange(length + 1) / 1000).astype("f4")
            group = file.create_group(f"data/demo_{demo}")
            group["actions"] = np.stack([frames[:-1], -frames[:-1]], axis=1)
            group["obs/x"] = frames[:-1, None]
            group["next_obs/x"] = frames[1:, None] + np.float32(100 if own_next else 0)


def naive(lengths: list[int], own_next: bool, s: dict[str, Any]) -> list[dict[str, list[float]]]:
    windows: list[dict[str, list[float]]] = []
    past, ahead = s["frame_stack"] - 1, s["seq_length"] - 1
    for demo, length in enumerate(lengths):
        first = 0 if s["pad_frame_stack"] else past
        last = length - 1 - (0 if s["pad_seq_length"] else ahead)
        anchors = list(range(first, last + 1))
        if not anchors and s["pad_seq_length"]:
            anchors = [first]
        for anchor in anchors:
            times = range(anchor - past, anchor + ahead + 1)
            frames = [min(max(t, 0), length - 1) for t in times]
            windows.append(
                {
                    "actions": [demo + t / 1000 for t in frames],
                    "next_obs": [demo + (t + 1) / 1000 + 100 * own_next for t in frames],
                    "pad_mask": [float(0 <= t < length) for t in times],
                }
            )
    return windows


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    frame_stack=st.integers(1, 6),
    seq_length=st.integers(1, 9),
    pads=st.tuples(st.booleans(), st.booleans()),
    own_next=st.booleans(),
    batch_size=st.integers(1, 8),
)
def test_batches_equal_a_naive_model(
    lengths: list[int],
    frame_stack: int,
    seq_length: int,
    pads: tuple[bool, bool],
    own_next: bool,
    batch_size: int,
) -> None:
    spec = {
        "frame_stack": frame_stack,
        "seq_length": seq_length,
        "pad_frame_stack": pads[0],
        "pad_seq_length": pads[1],
        "normalize_actions": "gaussian",
    }
    expected = naive(lengths, own_next, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demos.hdf5"
        write(path, lengths, own_next)
        options: dict[str, Any] = {**SETTINGS, "cache_dir": folder, **spec}
        if not expected:
            with pytest.raises(DatasetError, match="as long as a window"):
                Dataset(path=str(path), **options)
            return
        dataset = Dataset(path=str(path), **options)
    stats = dataset.action_stats
    assert stats is not None
    loader = dataset.train_loader(batch_size=batch_size, seed=0, keys=None, device="cpu")
    seen: list[int] = []
    for batch in loader:
        raw = batch["actions"] * stats["scale"] + stats["offset"]
        found = {
            "actions": raw[..., 0],
            "next_obs": batch["next_obs"]["x"][..., 0],
            "pad_mask": batch["pad_mask"][..., 0].float(),
        }
        for row, index in enumerate(batch["index"].tolist()):
            seen.append(index)
            for key, values in found.items():
                wanted = torch.tensor(expected[index][key])
                torch.testing.assert_close(values[row], wanted, rtol=0, atol=2e-5)
    size = min(batch_size, len(expected))
    assert len(seen) == len(set(seen)) == len(expected) // size * size
