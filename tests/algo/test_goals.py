"""Behavioural cloning towards a goal: what sees it, in training and acting, and what refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.errors import ConfigError
from rmexp.policy import Policy
from tests.algo.golden_case import LIFT
from tests.algo.offline_rl import built, random_batch, step
from tests.command_line import TINY, run_here

SEE = {
    "bc": ["algo.actor_layer_dims=[12]"],
    "bc_gmm": ["algo.actor_layer_dims=[12]"],
    "bc_vae": ["algo.encoder_layer_dims=[12]", "algo.decoder_layer_dims=[12]"],
    "bc_rnn": ["algo.hidden_dim=12", "algo.seq_length=4"],
    "bc_rnn_gmm": ["algo.hidden_dim=12", "algo.seq_length=4"],
    "bc_transformer": [
        "algo.embed_dim=12",
        "algo.num_heads=3",
        "algo.num_layers=1",
        "algo.frame_stack=3",
        "algo.embed_dropout=0.0",
        "algo.attention_dropout=0.0",
        "algo.block_dropout=0.0",
    ],
}
DO_NOT = ["act", "bcq", "cql", "diffusion_policy", "flow_policy", "iql", "td3_bc", "iris"]
GOAL = {"object": (10,), "robot0_eef_pos": (3,)}


def with_goals(name: str) -> Any:
    lengths = {"bc_rnn": (1, 4), "bc_rnn_gmm": (1, 4), "bc_transformer": (3, 1)}
    frame_stack, seq_length = lengths.get(name, (1, 1))
    spec = {"goal_shapes": GOAL, "frame_stack": frame_stack, "seq_length": seq_length}
    return built(f"algo={name}", *SEE[name], **spec)


def goals(value: float, rows: int = 5) -> dict[str, torch.Tensor]:
    return {key: torch.full((rows, *shape), value) for key, shape in GOAL.items()}


@pytest.mark.parametrize("name", sorted(SEE))
def test_training_sees_the_goal(name: str) -> None:
    algo = with_goals(name)
    time = algo.spec.frame_stack - 1 + algo.spec.seq_length
    losses: list[float] = []
    for value in (0.0, 2.0):
        algo.draws["valid"].generator.manual_seed(0)
        batch = {**random_batch(5, time), "goal_obs": goals(value)}
        losses.append(step(algo, batch, validate=True)["loss"])
    assert losses[0] != losses[1]
    assert step(algo, batch)["actor_grad_norm"] > 0


@pytest.mark.parametrize("name", sorted(SEE))
def test_acting_sees_the_goal(name: str) -> None:
    """And a policy normalises it as it does observations."""
    algo = with_goals(name)
    stats = {"object": {"offset": torch.full((10,), 1.0), "scale": torch.full((10,), 2.0)}}
    policy = Policy(algo, stats, None)
    obs = {k: np.zeros((2, *s), np.float32) for k, s in LIFT.items()}

    def act(value: float, seed: int = 0) -> np.ndarray:
        for env in range(2):
            policy.reset(env, seed)
        return policy.act(obs, [0, 1], {k: v.numpy() for k, v in goals(value, 2).items()})

    assert np.array_equal(act(0.5), act(0.5))
    assert not np.array_equal(act(0.5), act(2.0))
    seen: list[dict[str, torch.Tensor]] = []
    get_action = algo.get_action

    def watched(obs: Any, goal: Any, **more: Any) -> Any:
        seen.append(goal)
        return get_action(obs, goal, **more)

    algo.get_action = watched
    act(2.0)
    assert float(seen[0]["object"].mean()) == 0.5
    assert float(seen[0]["robot0_eef_pos"].mean()) == 2.0
    with pytest.raises(ConfigError, match="wants a goal beside obs: object, robot0_eef_pos"):
        policy.act(obs, [0, 1])


@pytest.mark.parametrize("name", DO_NOT)
def test_the_others_refuse_goals(name: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.goal_mode: .* does not look at goals"):
        built(f"algo={name}", goal_shapes=GOAL)


def test_a_run_with_goals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [word for word in TINY if word != "rollout=none"]
    outcome = run_here(
        [*words, "dataset.goal_mode=last", f"hydra.run.dir={run}"], monkeypatch, capfd
    )
    assert outcome.code == 0, outcome.text
    assert "no rollouts: with dataset.goal_mode a policy must be told its goal" in outcome.text
    policy = Policy.load(run / "checkpoints" / "last.pt")
    assert policy.algo.spec.goal_shapes == policy.algo.spec.obs_shapes
