"""What the tests of the value-learning algorithms share: building one as the command line does,
batches, and the reference's recorded cases with all of their networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor

from rmexp import build
from rmexp.algo.base import Algo
from rmexp.compat.replay import replay_draws
from rmexp.config import config_dir, register
from tests.algo.golden_case import CPU, LIFT, spec
from tests.first_weights import draw_first_weights

TARGETS = ("critic_target", "actor_target")


def built(*overrides: str, **changes: Any) -> Any:
    """The algorithm that `algo=...` and the other overrides choose; `changes` are of its spec."""
    return build.algo(composed(*overrides), spec(**changes), CPU)


@cache
def composed(*overrides: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides=["dataset=lift_mixed", *overrides])


def random_batch(
    size: int, time: int = 1, *, seed: int = 0, obs_shapes: Any = LIFT, ac_dim: int = 7
) -> dict[str, Any]:
    """Windows as the loader gives them."""
    g = torch.Generator().manual_seed(seed)

    def obs() -> dict[str, Tensor]:
        return {k: torch.randn(size, time, *s, generator=g) for k, s in obs_shapes.items()}

    return {
        "obs": obs(),
        "next_obs": obs(),
        "actions": torch.rand(size, time, ac_dim, generator=g) * 2 - 1,
        "rewards": torch.rand(size, time, generator=g),
        "dones": (torch.rand(size, time, generator=g) < 0.3).float(),
        "pad_mask": torch.ones(size, time, 1, dtype=torch.bool),
    }


def step(algo: Algo, batch: dict[str, Any], *, validate: bool = False) -> dict[str, float]:
    """One turn of the loop: what is logged."""
    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch))
    info = algo.train_on_batch(ready, epoch=1, validate=validate)
    if not validate:
        algo.on_gradient_step()
    return {k: float(torch.as_tensor(v).detach()) for k, v in algo.log_info(info).items()}


def state_survives(make: Callable[[], Algo], steps: int = 3) -> None:
    """Stop after `steps`, go on from the checkpoint in a new algorithm: equal to never stopping."""
    whole, first = make(), make()
    first.nets.load_state_dict(whole.nets.state_dict())
    for i in range(2 * steps):
        step(whole, random_batch(5, seed=i))
    for i in range(steps):
        step(first, random_batch(5, seed=i))
        step(first, random_batch(5, seed=100 + i), validate=True)  # it leaves no trace
    second = make()
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(steps, 2 * steps):
        step(second, random_batch(5, seed=i))
    assert whole.counters == second.counters
    for (name, a), b in zip(
        whole.nets.state_dict().items(), second.nets.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def acting_is_of_the_row_alone(algo: Algo, draws: Callable[[Sequence[int]], Any]) -> None:
    """Rows, their order and their neighbours change nothing; `draws(rows)` are those of rows."""
    algo.set_eval()
    obs = {k: torch.randn(5, *s) for k, s in LIFT.items()}

    def act(rows: list[int]) -> Tensor:
        padded = [*rows, *[rows[-1]] * (8 - len(rows))]  # as the policy does
        with torch.inference_mode():
            mine = {k: v[padded] for k, v in obs.items()}
            return algo.get_action(mine, draws=draws(padded), envs=rows)[: len(rows)]

    together = act([0, 1, 2, 3, 4])
    assert together.shape == (5, 7)
    assert float(together.abs().max()) <= 1.0
    shuffled = act([4, 2, 0])
    for place, row in enumerate([4, 2, 0]):
        assert torch.equal(shuffled[place], together[row])


def constant(net: Any, value: float) -> None:
    """Make a network's last layer answer `value` whatever it is shown."""
    with torch.no_grad():
        net.weight.zero_()
        net.bias.fill_(value)


def layer_names(name: str) -> str:
    """The reference's names of an MLP and its outputs in ours."""
    for number in range(4):
        name = name.replace(f"mlp._model.{2 * number}.", f"mlp.layers.{number}.")
    return name.replace("decoder.nets.", "decoder.")


def critic_names(name: str) -> str:
    """`critic.0.nets.X` is our `critic.0.net.X`, and targets lie one level deeper."""
    for net in TARGETS:
        name = name.replace(f"{net}.", f"{net}.net.")
    net, _, rest = name.partition(".")
    if not net.startswith("critic"):
        return layer_names(f"{net}.{rest.replace('nets.', '', 1)}")
    rest = rest.replace("decoder.nets.log_probs.", "decoder.logits.")
    return layer_names(f"{net}.{rest.replace('nets.', 'net.', 1)}")


class RecordedCase:
    """A case of the reference with all of its networks; `init/` holds the last weights."""

    def __init__(self, folder: Path, name: str, algo: Algo, rename: Callable[[str], str]) -> None:
        self.record: dict[str, Any] = json.loads((folder / f"algo_{name}.json").read_text())
        self.arrays = np.load(folder / f"algo_{name}.npz")
        self.algo = algo
        self.final = {
            rename(key.removeprefix("init/")): torch.from_numpy(self.arrays[key])
            for key in self.arrays.files
            if key.startswith("init/")
        }
        assert set(self.final) == set(algo.nets.state_dict())

    def train(self) -> list[dict[str, float]]:
        """The recorded steps from the recorded start: what is logged at each."""
        draw_first_weights(self.algo)
        self.algo.set_train()
        return [
            replayed_step(self.algo, self.arrays, f"step{i}")
            for i in range(len(self.record["log_info"]))
        ]

    def validate(self) -> dict[str, float]:
        """The validation pass at the recorded last weights."""
        self.algo.nets.load_state_dict(self.final)
        self.algo.set_eval()
        with torch.no_grad():
            return replayed_step(self.algo, self.arrays, "valid", validate=True)

    def largest_error(self) -> float:
        """Of the weights, against the recorded last ones."""
        now = self.algo.nets.state_dict()
        return max(float((value - now[key]).abs().max()) for key, value in self.final.items())


class StartedCase:
    """A case whose first weights are known; recorded with robomimic 0.3.0."""

    def __init__(self, folder: Path, name: str, algo: Algo, rename: Callable[[str], str]) -> None:
        self.record: dict[str, Any] = json.loads((folder / f"started_{name}.json").read_text())
        self.arrays = np.load(folder / f"started_{name}.npz")
        self.algo = algo
        self.init, self.after = (
            {
                rename(key.partition("/")[2]): torch.from_numpy(self.arrays[key])
                for key in self.arrays.files
                if key.startswith(place)
            }
            for place in ("init/", "after/")
        )

    def check(self, metrics: dict[str, str]) -> None:
        """Losses to 1e-5, relative, and the weights after the last step to 1e-6."""
        self.algo.nets.load_state_dict(self.init)
        self.algo.set_train()
        for i, theirs in enumerate(self.record["log_info"]):
            ours = replayed_step(self.algo, self.arrays, f"step{i}")
            assert relative_difference(ours, theirs, metrics) < 1e-5
        now = self.algo.nets.state_dict()
        assert set(now) == set(self.after)
        assert max(float((now[k] - v).abs().max()) for k, v in self.after.items()) < 1e-6


def recorded_batch(arrays: Any) -> dict[str, Any]:
    def obs(name: str) -> dict[str, Tensor]:
        return {k: torch.from_numpy(arrays[f"batch/{name}/{k}"]) for k in LIFT}

    plain = {k: torch.from_numpy(arrays[f"batch/{k}"]) for k in ("actions", "rewards", "dones")}
    return {"obs": obs("obs"), "next_obs": obs("next_obs"), **plain}


def replayed_step(
    algo: Algo, arrays: Any, name: str, *, validate: bool = False
) -> dict[str, float]:
    """A step on the recorded batch with the recorded draws `noise/<name>/`."""
    names = sorted(key for key in arrays.files if key.startswith(f"noise/{name}/"))
    records = [(key.rpartition("/")[2], arrays[key]) for key in names]
    with replay_draws(algo, records):
        return step(algo, recorded_batch(arrays), validate=validate)


def relative_difference(
    ours: dict[str, float], theirs: dict[str, float], metrics: dict[str, str]
) -> float:
    """The largest among `metrics` {the reference's name: ours} that were recorded."""
    compared = [(theirs[a], ours[b]) for a, b in metrics.items() if a in theirs]
    assert len(compared) >= 3
    return max(abs(x - y) / max(abs(x), 1e-3) for x, y in compared)
