"""CQL against the reference, its terms by hand, and its multipliers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp.errors import ConfigError
from tests.algo.offline_rl import (
    RecordedCase,
    StartedCase,
    acting_is_of_the_row_alone,
    built,
    constant,
    critic_names,
    random_batch,
    relative_difference,
    state_survives,
    step,
)

SMALL = ["algo=cql", "algo.actor_layer_dims=[24,24]", "algo.critic_layer_dims=[24,24]"]
MULTIPLIERS = {
    "log_entropy_weight.param": "entropy_weight.param",
    "log_cql_weight.param": "cql_weight.param",
}
METRICS = {
    "Loss": "loss",
    "Actor/Loss": "actor_loss",
    "Critic/Critic1_Loss": "critic1_loss",
    "Critic/Critic2_Loss": "critic2_loss",
    "Critic/CQL_Weight": "cql_weight",
    "Critic/CQL_Weight_Loss": "cql_weight_loss",
    "Entropy_Weight": "entropy_weight",
    "Entropy_Weight_Loss": "entropy_weight_loss",
    "Optimizer/entropy0_lr": "optimizer/entropy_weight_lr",
    "Optimizer/cql0_lr": "optimizer/cql_weight_lr",
}


def names(reference: str) -> str:
    return MULTIPLIERS.get(reference) or critic_names(reference)


def test_losses_and_weights_equal_the_references(golden: Path) -> None:
    case = RecordedCase(golden, "cql", built(*SMALL), names)
    rows = case.train()
    assert case.largest_error() < 1e-5
    assert len(rows) == len(case.record["log_info"]) == 3
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        assert relative_difference(ours, theirs, METRICS) < 1e-5
        assert ours["actor_grad_norm"] ** 2 == pytest.approx(theirs["Actor/Grad_Norms"], rel=1e-4)


def test_from_a_known_start_all_weights_equal_the_references(golden: Path) -> None:
    StartedCase(golden, "cql", built(*SMALL), names).check(METRICS)


def test_parameter_counts_are_the_references() -> None:
    assert built("algo=cql").num_parameters() == 132_014 + 257_802 + 2


def with_constant_critics(*overrides: str) -> Any:
    algo = built(*SMALL, *overrides)
    for critic, target, value in zip(algo.critic, algo.critic_target.net, (2.0, 3.0), strict=True):
        constant(critic.net.decoder["value"], 1.0)
        constant(target.net.decoder["value"], value)
    return algo


@pytest.mark.parametrize("several", [1, 4])
def test_target_by_hand(several: int) -> None:
    algo = with_constant_critics("algo.min_q_weight=0", f"algo.num_target_actions={several}")
    batch = random_batch(2)
    batch["rewards"] = torch.tensor([[0.5], [0.25]])
    batch["dones"] = torch.tensor([[0.0], [1.0]])
    row = step(algo, batch, validate=True)
    errors = 1.0 - torch.tensor([0.5 + 0.99 * 2.0, 0.25])
    assert row["critic1_loss"] == pytest.approx(float(errors.square().mean()) - 5.0)
    assert row["cql_weight_loss"] == pytest.approx(5.0)


def test_penalty_by_hand() -> None:
    """With critics that say the same of every action it is the log-sum of inverse densities."""
    options = ["algo.target_q_gap=null", "algo.cql_weight=0.5", "algo.num_random_actions=400"]
    algo = with_constant_critics(*options)
    batch = random_batch(3)
    batch["rewards"], batch["dones"] = torch.ones(3, 1), torch.ones(3, 1)
    row = step(algo, batch, validate=True)  # no temporal difference: 1 - 1
    # An inverse density is the box's volume 2^7 on average, for any density that covers it.
    assert row["critic1_loss"] == pytest.approx(0.5 * math.log(3 * 400 * 2.0**7), rel=0.02)
    assert "cql_weight_loss" not in row
    assert row["cql_weight"] == pytest.approx(0.5)


def test_multipliers_move_towards_their_aims() -> None:
    algo = with_constant_critics("algo.critic_lr=0.01", "algo.actor_lr=0.01")
    # The critics say the same of all actions: the gap is log(30 * 2^7), more than the 5 allowed.
    first = step(algo, random_batch(5))
    assert step(algo, random_batch(5))["cql_weight"] > first["cql_weight"] == 1.0
    # A narrow actor has less entropy than -7.
    algo = with_constant_critics("algo.actor_lr=0.01")
    constant(algo.actor.decoder["scale"], -4.0)
    narrow = [step(algo, random_batch(5)) for _ in range(3)]
    assert narrow[2]["entropy_weight"] > narrow[1]["entropy_weight"] > narrow[0]["entropy_weight"]


def test_it_imitates_first() -> None:
    algos = [with_constant_critics(f"algo.bc_start_steps={steps}") for steps in (2, 0)]
    algos[1].nets.load_state_dict(algos[0].nets.state_dict())
    batch = random_batch(5)
    outputs = algos[0].actor({k: v[:, 0] for k, v in batch["obs"].items()})
    likelihood = float(algos[0].head.log_prob(outputs, batch["actions"][:, 0]).mean().detach())
    imitating, maximising = (step(algo, batch)["actor_loss"] for algo in algos)
    assert imitating - maximising == pytest.approx(1.0 - likelihood, rel=1e-5)
    for algo in algos:
        step(algo, batch)
    algos[1].nets.load_state_dict(algos[0].nets.state_dict())
    assert step(algos[0], batch)["actor_loss"] == step(algos[1], batch)["actor_loss"]
    assert algos[0].counters == {"updates": 3}


def test_validation_reports_what_training_does() -> None:
    algo = built(*SMALL)
    batch = random_batch(5)
    rows: list[dict[str, float]] = []
    for mode in (algo.set_train, algo.set_eval):
        mode()
        state = algo.draws["valid"].state_dict()
        rows.append(step(algo, batch, validate=True))
        algo.draws["valid"].load_state_dict(state)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("bc_start_steps", [0, 4])
def test_state_survives_bit_for_bit(bc_start_steps: int) -> None:
    state_survives(lambda: built(*SMALL, f"algo.bc_start_steps={bc_start_steps}"))


def test_acting() -> None:
    acting_is_of_the_row_alone(built(*SMALL), lambda rows: None)


def test_another_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="algo/head"):
        built(*SMALL, "algo/head=gaussian")
