"""IRIS: which of the proposed subgoals is taken, what its value function learns, and acting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.samplers import RepeatedDraws
from rmexp.policy import ROWS, Policy
from tests.algo.episodes_check import check_episodes_are_their_own
from tests.algo.golden_case import CPU, LIFT
from tests.algo.hierarchies import (
    STEPS,
    hierarchy,
    observations,
    reads_nothing_back,
    state_survives,
    windows,
)
from tests.algo.offline_rl import built, constant, step

VARIANTS = {
    "separate": [],
    "cascade": ["algo.mode=cascade"],
    "random": ["algo.actor_use_random_subgoals=true"],
    "gmm": ["algo@algo.value=bcq_gmm", "algo.value.action_sampler.actor_layer_dims=[12]"],
    "distributional": ["algo@algo.value=bcq_distributional"],
}
GMM = [
    "algo=iris",
    "algo@algo.value=bcq_gmm",
    "algo.planner.subgoal_horizon=4",
    "algo.num_samples=3",
]


def iris(variant: str = "separate", *more: str, **spec: Any) -> Any:
    if variant == "gmm":
        return built(*GMM, *VARIANTS["gmm"][1:], *more, **{"seq_length": STEPS, **spec})
    return hierarchy("iris", *VARIANTS[variant], *more, **spec)


def test_parameter_counts_are_the_references() -> None:
    algo = built("algo=iris", seq_length=10)
    assert algo.planner.num_parameters() == 283_751
    assert algo.value.num_parameters() == 257_802 + 273_135
    assert algo.actor.num_parameters() == 3_424_199 + 4 * 400 * 19


def test_the_best_proposal_is_taken() -> None:
    """By hand: the value of a state is the first number of its object."""
    algo = iris()
    algo.set_eval()

    def value(obs: dict[str, Tensor], draws: Any) -> tuple[None, Tensor]:
        return None, obs["object"][:, 0]

    algo.value.best_action = value
    obs = observations(3)
    draws = SeededDraws(5, CPU)
    with torch.no_grad():
        best = algo.propose(obs, draws)
        tiled = {k: v.repeat_interleave(6, 0) for k, v in obs.items()}
        again = RepeatedDraws(SeededDraws(5, CPU), 6)
        proposals = algo.planner.planner.sample(tiled, None, again)
    for row in range(3):
        mine = {k: v[6 * row : 6 * row + 6] for k, v in proposals.items()}
        first = int(mine["object"][:, 0].argmax())
        for key, value_ in mine.items():
            torch.testing.assert_close(best[key][row], value_[first])


def test_the_value_of_a_subgoal_is_that_of_its_best_action() -> None:
    algo = iris()
    algo.set_eval()
    constant(algo.value.critic[0].net.decoder["value"], 2.5)
    _, values = algo.value.best_action(observations(3), SeededDraws(0, CPU))
    torch.testing.assert_close(values, torch.full((3,), 2.5))


def test_values_are_learned_of_the_first_step_and_of_subgoals_alone() -> None:
    """Its target by hand: r + discount (1 - d) Q, of the first transition of each window."""
    algo = iris("separate", "algo.planner.subgoal_keys=[object]")
    assert dict(algo.value.spec.obs_shapes) == {"object": (10,)}
    for critic, target in zip(algo.value.critic, algo.value.critic_target.net, strict=True):
        constant(critic.net.decoder["value"], 1.0)
        constant(target.net.decoder["value"], 2.0)
    batch = windows(size=2)
    batch["rewards"] = torch.tensor([[0.5, 9.0, 9.0, 9.0], [0.25, 9.0, 9.0, 9.0]])
    batch["dones"] = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    row = step(algo, batch, validate=True)
    targets = torch.tensor([0.5 + 0.99 * 2.0, 0.25])
    assert row["value_q_target"] == pytest.approx(float(targets.mean()))
    assert row["value_critic1_loss"] == pytest.approx(float((1.0 - targets).square().mean()))


def test_the_next_state_of_the_first_step_is_backed_up() -> None:
    algo, batch = iris(), windows()
    ready = algo.process_batch_for_training(batch)
    for key in LIFT:
        assert torch.equal(ready["next_obs"][key], batch["next_obs"][key][:, 0])
        assert torch.equal(ready["obs"][key], batch["obs"][key])
        assert torch.equal(ready["subgoal_obs"][key], batch["next_obs"][key])


def test_the_actor_sees_its_subgoal() -> None:
    """Defect R1 of the reference: there it does not."""
    algo = iris()
    algo.set_eval()
    obs = observations(3)
    goal = {k: torch.zeros(1, *s) for k, s in LIFT.items()}
    algo.propose = lambda *_: goal
    first = algo.get_action(obs)
    goal = {k: v + 1.0 for k, v in goal.items()}
    algo.reset()
    assert (algo.get_action(obs) != first).any(1).all()
    blind = iris("separate", "algo.actor_sees_subgoal=false")
    assert blind.actor.actor.encoder.goal is None


def test_a_subgoal_lasts_and_is_renewed() -> None:
    algo = iris()
    algo.set_eval()
    rows: list[float] = []
    propose = algo.propose

    def watched(obs: dict[str, Tensor], draws: Any) -> Any:
        rows.extend(obs["object"][:, 0].tolist())
        return propose(obs, draws)

    algo.propose = watched
    obs = observations(2)
    of_row = obs["object"][:, 0].tolist()
    for _ in range(4):
        algo.get_action(obs, envs=[7, 4])
    assert rows == of_row * 2  # at steps 0 and 3
    algo.reset([4])
    algo.get_action(obs, envs=[7, 4])
    assert rows[4:] == of_row[1:]


@pytest.mark.parametrize("variant", ["separate", "gmm"])
def test_an_episode_does_not_depend_on_who_else_acts(variant: str) -> None:
    check_episodes_are_their_own(Policy(iris(variant), None, None), ROWS + 3)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_state_survives_bit_for_bit(variant: str) -> None:
    """And with `load_optimizers`, which the reference's does not take: defect R2."""
    state_survives(lambda: iris(variant), windows)


def test_what_it_reports() -> None:
    algo = iris()
    row = step(algo, windows())
    parts = row["planner_loss"] + row["value_loss"] + row["actor_loss"]
    assert row["loss"] == pytest.approx(parts, rel=1e-6)
    rates = {name for name in row if name.startswith("optimizer/")}
    nets = ("planner", "value_critic1", "value_critic2", "value_action_sampler", "actor")
    assert rates == {f"optimizer/{net}_lr" for net in nets}


def test_an_update_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    reads_nothing_back(iris(), monkeypatch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: iris(seq_length=5), r"algo\.seq_length=4, dataset\.seq_length=5"),
        (
            lambda: iris("cascade", "algo.actor_use_random_subgoals=true"),
            r"algo\.mode=cascade, algo\.actor_use_random_subgoals=true",
        ),
        (lambda: iris("separate", "algo.num_samples=0"), r"algo\.num_samples: 0"),
        (lambda: iris("separate", "algo.value.n_step=5"), r"algo\.n_step=5"),
        (lambda: iris(goal_shapes={"object": (10,)}), "IRIS does not look at goals"),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
