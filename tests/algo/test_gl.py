"""Goal learning: which observation is the subgoal, its losses, and that it does not act."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from rmexp.errors import ConfigError
from tests.algo.golden_case import LIFT
from tests.algo.hierarchies import SMALL_VAE, STEPS, below, observations, state_survives, windows
from tests.algo.offline_rl import built, constant, step

MLP = ["algo=gl", "algo.subgoal_model.layer_dims=[13,11]"]
VAE = ["algo=gl_vae", *below("algo.subgoal_model", *SMALL_VAE)]
HORIZON = f"algo.subgoal_horizon={STEPS}"
VARIANTS = {"gl": [*MLP, HORIZON], "gl_vae": [*VAE, HORIZON]}


def gl(*overrides: str, **spec: Any) -> Any:
    return built(*overrides, **{"seq_length": STEPS, **spec})


def test_parameter_counts_are_the_references() -> None:
    assert built("algo=gl_vae", seq_length=10).num_parameters() == 283_751
    widths = [19, 300, 400, 19]
    dense = sum((a + 1) * b for a, b in pairwise(widths))
    assert built("algo=gl", seq_length=10).num_parameters() == dense


@pytest.mark.parametrize("horizon", [1, 3, 4])
@pytest.mark.parametrize("name", ["next_obs", "future_obs"])
def test_the_subgoal_is_seen_so_many_steps_later(horizon: int, name: str) -> None:
    """By hand: frames that carry their number; the window begins with frame 20."""
    algo = gl(*MLP, f"algo.subgoal_horizon={horizon}", "algo.seq_length=4")
    numbers = torch.arange(20.0, 20.0 + STEPS).view(1, -1, 1)
    batch = {
        "obs": {k: numbers.expand(1, -1, *s) for k, s in LIFT.items()},
        name: {k: (numbers + 1).expand(1, -1, *s) for k, s in LIFT.items()},
    }
    ready = algo.process_batch_for_training(batch)
    for key, shape in LIFT.items():
        assert torch.equal(ready["obs"][key], torch.full((1, *shape), 20.0))
        assert torch.equal(ready["subgoal_obs"][key], torch.full((1, *shape), 20.0 + horizon))


def test_the_loss_by_hand() -> None:
    """A model that answers 0: the sum over the keys of each one's mean square."""
    algo = gl(*VARIANTS["gl"])
    for layer in algo.planner.net.decoder.values():
        constant(layer, 0.0)
    batch = windows()
    row = step(algo, batch, validate=True)
    squares = {k: float(v[:, -1].square().mean()) for k, v in batch["next_obs"].items()}
    assert row["loss"] == pytest.approx(sum(squares.values()))
    for key, square in squares.items():
        assert row[f"{key}_loss"] == pytest.approx(square)


def test_subgoals_are_normalised_like_observations() -> None:
    """The reference leaves them as they are: its actor would be shown raw ones beside scaled."""
    algo = gl(*VARIANTS["gl"])
    stats = {"object": {"offset": torch.full((10,), 2.0), "scale": torch.full((10,), 4.0)}}
    batch = windows()
    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch), stats)
    expected = (batch["next_obs"]["object"][:, -1] - 2.0) / 4.0
    torch.testing.assert_close(ready["subgoal_obs"]["object"], expected)


def test_some_observations_make_a_subgoal() -> None:
    algo = gl(*VARIANTS["gl_vae"], "algo.subgoal_keys=[robot0_eef_pos,object]")
    assert list(algo.subgoal_shapes.items()) == [("object", (10,)), ("robot0_eef_pos", (3,))]
    sample = algo.planner.sample(observations(5), None, algo.draws["act"])
    assert {k: tuple(v.shape) for k, v in sample.items()} == {
        "object": (5, 10),
        "robot0_eef_pos": (5, 3),
    }
    assert step(algo, windows())["planner_grad_norm"] > 0


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_it_learns(variant: str) -> None:
    algo = gl(*VARIANTS[variant], "algo.lr=1e-2")
    batch = windows(size=3)
    losses = [step(algo, batch)["loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_goals_are_seen(variant: str) -> None:
    algo = gl(*VARIANTS[variant], goal_shapes={"object": (10,)})
    batch = {**windows(), "goal_obs": {"object": torch.zeros(5, 10)}}
    first = step(algo, batch, validate=True)
    algo.draws["valid"].load_state_dict(gl(*VARIANTS[variant]).draws["valid"].state_dict())
    batch["goal_obs"] = {"object": torch.ones(5, 10)}
    assert step(algo, batch, validate=True)["loss"] != first["loss"]


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_state_survives_bit_for_bit(variant: str) -> None:
    state_survives(lambda: gl(*VARIANTS[variant]), windows)


def test_it_does_not_act() -> None:
    algo = gl(*VARIANTS["gl"])
    assert algo.cannot_roll_out() == "no rollouts: GL predicts no actions"
    with pytest.raises(ConfigError, match="predicts subgoals, not actions"):
        algo.get_action(observations(2))


@pytest.mark.parametrize(
    ("overrides", "spec", "message"),
    [
        (["algo.seq_length=3"], {}, r"algo\.subgoal_horizon=4, algo\.seq_length=3"),
        ([], {"seq_length": 5}, r"algo\.seq_length=4, dataset\.seq_length=5"),
        ([], {"frame_stack": 2}, r"dataset\.frame_stack=2"),
        (["algo.subgoal_horizon=0"], {}, r"algo\.subgoal_horizon=0"),
        (["algo.subgoal_keys=[cube]"], {}, r"algo\.subgoal_keys=\['cube'\].*cube is not among"),
        ([], {"obs_shapes": {"cam": (3, 20, 22)}}, r"dataset\.obs_keys=\['cam'\].*leaves none"),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: list[str], spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        gl(*VARIANTS["gl"], *overrides, **spec)
