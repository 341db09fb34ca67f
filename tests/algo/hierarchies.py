"""What the tests of goal learning and of the hierarchies that contain it share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rmexp.algo.base import Algo
from tests.algo.golden_case import LIFT
from tests.algo.offline_rl import built, random_batch, step

STEPS = 4
SMALL_VAE = [
    "encoder_layer_dims=[13,11]",
    "decoder_layer_dims=[12]",
    "latent_dim=5",
]
SMALL_ACTOR = ["hidden_dim=12", "actor_layer_dims=[12]"]
SMALL_VALUE = [
    "critic.layer_dims=[13,11]",
    "action_sampler.encoder_layer_dims=[13,11]",
    "action_sampler.decoder_layer_dims=[12]",
    "num_action_samples=3",
    "num_action_samples_rollout=4",
]


def below(node: str, *values: str) -> list[str]:
    return [f"{node}.{value}" for value in values]


def hierarchy(name: str, *more: str, **spec: Any) -> Any:
    """A small `hbc` or `iris` on windows of 4 steps, whose subgoals last 3 steps."""
    small = [
        f"algo={name}",
        f"algo.planner.subgoal_horizon={STEPS}",
        "algo.subgoal_update_interval=3",
        *below("algo.planner.subgoal_model", *SMALL_VAE),
        *below("algo.actor", *SMALL_ACTOR),
    ]
    if name == "iris":
        small += [*below("algo.value", *SMALL_VALUE), "algo.num_samples=6"]
    return built(*small, *more, **{"seq_length": STEPS, **spec})


def windows(seed: int = 0, size: int = 5, **shapes: Any) -> dict[str, Any]:
    """As the loader of a file with next_obs gives them: each observation follows the one before."""
    batch = random_batch(size, STEPS, seed=seed, **shapes)
    g = torch.Generator().manual_seed(seed + 1000)
    for key, value in batch["obs"].items():
        last = torch.randn(size, 1, *value.shape[2:], generator=g)
        batch["next_obs"][key] = torch.cat([value[:, 1:], last], dim=1)
    return batch


def observations(rows: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {key: torch.randn(rows, *shape, generator=g) for key, shape in LIFT.items()}


def state_survives(make: Callable[[], Algo], batch: Callable[[int], dict[str, Any]]) -> None:
    """Stopped after 3 of 6 steps and resumed in a new algorithm: equal to never stopping."""
    whole, first = make(), make()
    first.nets.load_state_dict(whole.nets.state_dict())
    rows = [step(whole, batch(i)) for i in range(6)]
    for i in range(3):
        assert step(first, batch(i)) == rows[i]
        step(first, batch(100 + i), validate=True)  # it leaves no trace
    second = make()
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        assert step(second, batch(i)) == rows[i]
    for (name, a), b in zip(
        whole.nets.state_dict().items(), second.nets.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert rows[0] != rows[5]


def reads_nothing_back(algo: Algo, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update after the first, which makes the optimisers' state, takes no value to the host."""
    batch = windows()
    step(algo, batch)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a value was read back from the device")

    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch))
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    algo.train_on_batch(ready, epoch=1)
