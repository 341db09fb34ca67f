"""Every kind of algorithm, small enough for a run of a fraction of a second."""

from __future__ import annotations

import pytest

from tests.command_line import TINY
from tests.faults.toy_arm import ToyArm

_LAYERS = ["algo.actor_layer_dims=[16]"]
_OFFLINE = [*_LAYERS, "algo.critic_layer_dims=[16]"]
SMALL = {
    "bc": _LAYERS,
    "bc_gmm": _LAYERS,
    "bc_rnn": ["algo.hidden_dim=8", *_LAYERS],
    "bc_transformer": ["algo.embed_dim=8", "algo.num_layers=1", "algo.num_heads=2"],
    "diffusion_policy": [
        *("algo.backbone.down_dims=[16]", "algo.backbone.step_embed_dim=8"),
        *("algo.pred_horizon=4", "algo.action_horizon=2", "algo/lr_schedule=constant"),
    ],
    "td3_bc": _OFFLINE,
    "iql": _OFFLINE,
    "cql": _OFFLINE,
}


def small(algo: str, *more: str) -> list[str]:
    """The command line of a tiny run of `algo`; `more` wins."""
    given = {word.partition("=")[0].lstrip("+") for word in more}
    words = [*(word for word in TINY if not word.startswith("algo.")), "hydra.run.dir=run"]
    words += [f"algo={algo}", *SMALL[algo]]
    return [word for word in words if word.partition("=")[0] not in given] + list(more)


def with_toy_arm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the toy in the simulator's place; the words that ask for rollouts in it."""
    monkeypatch.setattr("rmexp.rollout.rollouts.make_environment", ToyArm)
    monkeypatch.setattr("rmexp.rollout.rollouts.simulator_missing", lambda env_args: None)
    numbers = {"num_episodes": 5, "final_episodes": 4, "horizon": 6, "video_episodes": 0}
    words = [f"rollout.{name}={value}" for name, value in numbers.items()]
    return ["rollout=default", "loop.rollout_every=1", *words]
