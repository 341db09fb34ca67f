"""Every recorded case of the reference, from its own configuration, weights and draws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rmexp.compat.robomimic import load_robomimic_nets, robomimic_nets
from tests.compat.reference_case import METRICS, ReferenceCase, largest_difference

CASES = {
    "bc": 5,
    "bc_mixed_loss_clip": 5,
    "bc_gaussian": 3,
    "bc_gmm": 3,
    "bc_rnn": 5,
    "bc_rnn_gmm": 3,
    "bc_transformer": 5,
    "bc_transformer_gmm": 3,
    "bc_vae": 5,
    "diffusion_policy": 2,
    "td3_bc": 7,
    "iql": 8,
    "cql": 10,
    "bcq": 8,
}
"""How many metrics of each are compared."""

LOW_NOISE = ("bc_gaussian", "bc_gmm", "bc_rnn_gmm", "iql", "cql")
"""The reference validates their densities with a standard deviation of 1e-4, a defect."""


def test_no_recorded_case_was_overlooked(golden: Path) -> None:
    assert {file.stem.removeprefix("algo_") for file in golden.glob("algo_*.json")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_equal_the_references(golden: Path, name: str) -> None:
    case = ReferenceCase(golden, name)
    rows = case.train()
    weights = max(float(abs(error).max()) for error in case.errors().values())
    losses = 0.0
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        difference, compared = largest_difference(ours, theirs)
        assert compared == CASES[name]
        losses = max(losses, difference)
    sys.stdout.write(f"{name}: losses {losses:.1e} (relative), weights {weights:.1e} (absolute)\n")
    assert losses < 1e-5
    assert weights < 1e-5


@pytest.mark.parametrize("name", [name for name in CASES if name not in LOW_NOISE])
def test_validation_equals_the_references(golden: Path, name: str) -> None:
    case = ReferenceCase(golden, name)
    load_robomimic_nets(case.algo, case.last)
    case.algo.set_eval()
    with torch.no_grad():
        row = case.step("valid", validate=True)
    theirs = case.record["validate_log_info"]
    rates = tuple(key for key in theirs if key.startswith("Optimizer/"))  # nothing was trained
    difference, compared = largest_difference(row, theirs, but=rates)
    assert compared == CASES[name] - sum(key in METRICS for key in rates)
    assert difference < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_weights_go_there_and_back(golden: Path, name: str) -> None:
    case = ReferenceCase(golden, name)
    load_robomimic_nets(case.algo, case.last)
    back = robomimic_nets(case.algo)
    assert set(back) == set(case.last)
    for key, value in case.last.items():
        assert back[key].shape == value.shape
        assert (back[key] == value).all()
