"""Windows equal the reference's, and a model that slices one window after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.data.windows import Windows, WindowSpec
from rmexp.errors import DatasetError

GOLDEN = Path(__file__).parent.parent / "golden"
COMBINATIONS: list[dict[str, Any]] = json.loads((GOLDEN / "windows_index.json").read_text())


def test_all_combinations_are_here() -> None:
    assert len(COMBINATIONS) == 15


@pytest.mark.parametrize("case", COMBINATIONS, ids=[case["tag"] for case in COMBINATIONS])
def test_windows_equal_the_reference(case: dict[str, Any], open_dataset: OpenDataset) -> None:
    names = ("frame_stack", "seq_length", "pad_frame_stack", "pad_seq_length")
    dataset = open_dataset(
        GOLDEN / "tiny_lift.hdf5",
        goal_mode="last",
        train_filter=None,
        valid_filter=None,
        **{name: case[name] for name in names},
    )
    loader = dataset.train_loader(batch_size=case["n"], seed=0, keys=None, device="cpu")
    (batch,) = list(loader)
    order = torch.argsort(batch["index"])
    assert len(order) == case["n"]
    expected = np.load(GOLDEN / "windows.npz")

    def check(name: str, found: torch.Tensor) -> None:
        wanted = torch.from_numpy(expected[f"{case['tag']}/{name}"])
        assert found.shape == wanted.shape
        assert torch.equal(found[order], wanted)

    check("actions", batch["actions"])
    check("rewards", batch["rewards"])
    check("pad_mask", batch["pad_mask"])
    check("obs.object", batch["obs"]["object"])
    check("next_obs.robot0_eef_pos", batch["next_obs"]["robot0_eef_pos"])
    check("goal_obs.object", batch["goal_obs"]["object"])


def naive_windows(lengths: list[int], spec: WindowSpec) -> list[tuple[list[int], list[bool], int]]:
    """(rows, is real, goal row) of each window, sliced one by one with edges repeated."""
    found: list[tuple[list[int], list[bool], int]] = []
    start = 0
    for length in lengths:
        front = 0 if spec.pad_frame_stack else spec.frame_stack - 1
        back = 0 if spec.pad_seq_length else spec.seq_length - 1
        count = length - front - back
        if spec.pad_seq_length:
            count = max(count, 1)
        for i in range(count):
            anchor = i + front
            frames = range(anchor - spec.frame_stack + 1, anchor + spec.seq_length)
            rows = [start + min(max(t, 0), length - 1) for t in frames]
            found.append((rows, [0 <= t < length for t in frames], start + length - 1 - back))
        start += length
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    frame_stack=st.integers(1, 5),
    seq_length=st.integers(1, 6),
    pads=st.tuples(st.booleans(), st.booleans()),
)
def test_windows_equal_a_naive_model(
    lengths: list[int], frame_stack: int, seq_length: int, pads: tuple[bool, bool]
) -> None:
    spec = WindowSpec(frame_stack, seq_length, *pads)
    sizes = np.array(lengths)
    windows = Windows(np.cumsum(sizes) - sizes, sizes, spec)
    expected = naive_windows(lengths, spec)
    assert len(windows) == len(expected)
    index = torch.arange(len(windows))
    rows = windows.rows(index).view(len(windows), spec.length)
    assert rows.tolist() == [rows for rows, _, _ in expected]
    assert windows.pad_mask(index).squeeze(-1).tolist() == [mask for _, mask, _ in expected]
    assert windows.goal_rows(index).tolist() == [goal for _, _, goal in expected]


def test_goal_without_padding_is_the_last_anchor(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(
        write_demos((5,)), goal_mode="last", seq_length=3, pad_seq_length=False, valid_fraction=0.0
    )
    (batch,) = list(dataset.train_loader(batch_size=3, seed=0, keys=None, device="cpu"))
    seen = dict(zip(batch["index"].tolist(), batch["next_obs"]["object"], strict=True))
    assert batch["goal_obs"]["object"].shape == (3, 4)
    for goal in batch["goal_obs"]["object"]:
        assert torch.equal(goal, seen[2][0])  # the frame after row 2 = 5 - 1 - (3 - 1)


def test_too_short_episodes_are_left_out_with_a_warning(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((5, 2, 7))
    dataset = open_dataset(path, seq_length=3, pad_seq_length=False)
    loader = dataset.train_loader(batch_size=1, seed=0, keys=None, device="cpu")
    assert len(loader) == 3 + 5
    assert any("1 train episodes are shorter" in warning for warning in dataset.warnings)
    with pytest.raises(DatasetError, match="as long as a window"):
        open_dataset(path, seq_length=8, pad_seq_length=False)
