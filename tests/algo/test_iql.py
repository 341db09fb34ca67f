"""IQL against the reference, and its losses by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.critics import start_small
from tests.algo.golden_case import CPU
from tests.algo.offline_rl import (
    RecordedCase,
    StartedCase,
    acting_is_of_the_row_alone,
    built,
    constant,
    critic_names,
    layer_names,
    random_batch,
    relative_difference,
    state_survives,
    step,
)

DIMS = ["algo.actor_layer_dims=[24,24]", "algo.critic_layer_dims=[24,24]"]
SMALL = ["algo=iql", *DIMS]
METRICS = {
    "critic/critic1_loss": "critic1_loss",
    "vf/v_loss": "value_loss",
    "vf/q_pred/mean": "q",
    "vf/v_pred/mean": "value",
    "adv/adv/mean": "advantage",
    "adv/adv_weight/mean": "advantage_weight",
}
LIKELIHOOD = {"actor/loss": "actor_loss", "actor/log_prob": "log_likelihood"}


def names(reference: str) -> str:
    if reference.startswith("vf."):
        return layer_names(reference.replace("vf.nets.", "value.net."))
    return critic_names(reference)


def test_losses_and_weights_equal_the_references(golden: Path) -> None:
    case = RecordedCase(golden, "iql", built(*SMALL), names)
    rows = case.train()
    assert case.largest_error() < 1e-5
    assert len(rows) == len(case.record["log_info"]) == 3
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        assert relative_difference(ours, theirs, METRICS | LIKELIHOOD) < 1e-5
    # Of a validation pass the reference logs a likelihood with a standard deviation of 1e-4.
    assert relative_difference(case.validate(), case.record["validate_log_info"], METRICS) < 1e-5


def test_a_mixture_as_actor_equals_the_references(golden: Path) -> None:
    algo = built("algo=iql_gmm", *DIMS)
    StartedCase(golden, "iql_gmm", algo, names).check(METRICS | LIKELIHOOD)


def test_parameter_counts_are_the_references() -> None:
    algo = built("algo=iql")
    counts = {
        name: sum(p.numel() for p in algo.nets[name].parameters() if p.requires_grad)
        for name in algo.nets
    }
    assert counts == {"actor": 132_014, "critic": 257_802, "critic_target": 0, "value": 126_801}


@pytest.mark.parametrize(("q", "loss"), [((2.0, 1.5), 0.9 * 0.25), ((0.0, 3.0), 0.1 * 1.0)])
def test_losses_by_hand(q: tuple[float, float], loss: float) -> None:
    algo = built(*SMALL, "algo.max_weight=1.5")
    constant(algo.value.net.decoder["value"], 1.0)
    for critic, target, value in zip(algo.critic, algo.critic_target.net, q, strict=True):
        constant(critic.net.decoder["value"], 0.0)
        constant(target.net.decoder["value"], value)
    batch = random_batch(2)
    batch["rewards"] = torch.tensor([[0.5], [0.25]])
    batch["dones"] = torch.tensor([[0.0], [1.0]])
    row = step(algo, batch, validate=True)
    advantage = min(q) - 1.0
    assert row["value_loss"] == pytest.approx(loss)
    assert row["advantage_weight"] == pytest.approx(min(math.exp(advantage), 1.5))
    targets = torch.tensor([0.5 + 0.99 * 1.0, 0.25])
    assert row["critic2_loss"] == pytest.approx(float(targets.square().mean()))
    assert row["actor_loss"] == pytest.approx(-row["advantage_weight"] * row["log_likelihood"])


def test_validation_reports_the_true_likelihood() -> None:
    algo = built(*SMALL)
    batch = random_batch(5)
    algo.set_train()
    trained = step(algo, batch, validate=True)
    algo.set_eval()
    assert step(algo, batch, validate=True) == trained


def test_the_actor_starts_with_small_actions() -> None:
    decoder = built("algo=iql").actor.decoder
    assert 9e-4 < max(float(p.detach().abs().max()) for p in decoder.parameters()) <= 1e-3
    layer = torch.nn.Linear(3, 5)
    before = layer.weight.clone()
    start_small(layer, None)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("choice", ["iql", "iql_gmm"])
def test_state_survives_bit_for_bit(choice: str) -> None:
    state_survives(lambda: built(f"algo={choice}", *DIMS))


@pytest.mark.parametrize("choice", ["iql", "iql_gmm"])
def test_acting(choice: str) -> None:
    acting_is_of_the_row_alone(
        built(f"algo={choice}", *DIMS),
        lambda rows: EpisodeDraws([SeededDraws(row, CPU) for row in rows], CPU),
    )


def test_windows_of_several_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"frame_stack=3"):
        built(*SMALL, frame_stack=3)


def test_another_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="algo/head"):
        built(*SMALL, "algo/head=deterministic")
