"""Checkpoints of earlier versions: their weights and classes are found where they are now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rmexp import build, checkpoint
from rmexp.algo.base import Algo, Spec
from rmexp.earlier import current_target
from rmexp.nets import critics
from tests.small_networks import composed

RECORDED = Path(__file__).parent / "golden" / "format_2_weights.json"
"""Names and shapes of weights as format 2 had them; of a camera's backbone the first alone."""

CASES: dict[str, dict[str, list[int]]] = json.loads(RECORDED.read_text())
SHAPES = {"object": (10,), "pose": (5,), "hand": (3, 20, 22)}
SIZES = {"width": 16, "crop": [18, 19], "feature_dim": 5, "num_samples": 3}
CHOSEN = ["dataset=hdf5", "dataset.path=none", "rollout=none", "logging=none"]


def built(case: str) -> Algo:
    name, *options = case.split(", ")
    goals = options == ["goals"]
    config = composed(name, CHOSEN + ([] if goals else options), SIZES)
    spec = Spec(
        obs_shapes=SHAPES,
        goal_shapes=SHAPES if goals or config.dataset.goal_mode else {},
        ac_dim=7,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=10,
        seed=0,
    )
    return build.algo(config, spec, torch.device("cpu"))


@pytest.mark.parametrize("case", CASES)
def test_weights_of_format_2_have_their_names_of_today(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: torch.zeros(shape) for name, shape in CASES[case].items()}
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(tmp_path / "old.pt", {"algo": {"nets": weights}})
    monkeypatch.undo()
    found = checkpoint.load(tmp_path / "old.pt")["algo"]["nets"]
    expected = {
        name: value.shape
        for name, value in built(case).nets.state_dict().items()
        if "backbone" not in name or name.endswith("stem.0.weight")
    }
    assert {name: value.shape for name, value in found.items()} == expected
    assert list(found) == list(expected)  # optimisers count parameters in this order


def test_names_of_today_stay() -> None:
    assert current_target("rmexp.nets.action_values.Expected") == "rmexp.nets.critics.Expected"
    assert hasattr(critics, "Expected")
    assert hasattr(critics, "Categorical")
    assert current_target("rmexp.algo.bc.BC") == "rmexp.algo.bc.BC"
