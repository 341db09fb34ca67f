"""One recorded case of the reference, replayed by an algorithm of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rmexp.algo.base import Algo, Spec
from rmexp.nets.encoders import ResNet18Encoding
from tests.compat.reference_case import LIFT, METRICS
from tests.first_weights import draw_first_weights

CPU = torch.device("cpu")


def spec(**changes: Any) -> Spec:
    values: dict[str, Any] = {
        "obs_shapes": LIFT,
        "goal_shapes": {},
        "ac_dim": 7,
        "frame_stack": 1,
        "seq_length": 1,
        "total_steps": 10,
        "seed": 0,
    }
    return Spec(**{**values, **changes})


def encoding() -> ResNet18Encoding:
    return ResNet18Encoding(
        crop=None,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        noise_std=0.0,
        norm="group",
        width=16,
        pool="mean",
        num_keypoints=4,
        temperature=1.0,
        feature_dim=5,
        activation="relu",
        share_cameras=False,
    )


class Replayed:
    """Draws that were recorded, in the order of their calls."""

    def __init__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        self.arrays = list(arrays)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self._next(shape)

    def rand(self, shape: Sequence[int]) -> Tensor:
        return self._next(shape)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        return self._next(shape)

    def _next(self, shape: Sequence[int]) -> Tensor:
        array = self.arrays.pop(0)
        assert array.shape == tuple(shape)
        return torch.from_numpy(array)


class GoldenCase:
    """`build` makes our algorithm of the recorded configuration (algo_config, train).

    `rename` gives our name of one of the reference's weights, or None for a second name of a
    weight that has one already.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        build: Callable[[dict[str, Any], dict[str, Any]], Algo],
        rename: Callable[[str], str | None],
    ) -> None:
        self.record: dict[str, Any] = json.loads((folder / f"algo_{name}.json").read_text())
        self.arrays = np.load(folder / f"algo_{name}.npz")
        self.final: dict[str, Tensor] = {}
        for key in self.arrays.files:
            ours = rename(key.removeprefix("init/")) if key.startswith("init/") else None
            if ours is not None:
                self.final[ours] = torch.from_numpy(self.arrays[key])
        self.algo = build(self.record["algo_config"], self.record["train"])
        self.actor = self.algo.nets["actor"]
        assert set(self.final) == set(self.actor.state_dict())

    def batch(self) -> dict[str, Any]:
        return {
            "obs": {key: torch.from_numpy(self.arrays[f"batch/obs/{key}"]) for key in LIFT},
            "actions": torch.from_numpy(self.arrays["batch/actions"]),
        }

    def noise(self, step: str) -> Replayed:
        names = sorted(key for key in self.arrays.files if key.startswith(f"noise/{step}/"))
        return Replayed([self.arrays[name] for name in names])

    def train(self) -> list[dict[str, float]]:
        """The recorded steps from the recorded start: what is logged at each."""
        draw_first_weights(self.algo)
        self.algo.set_train()
        return [self._step(f"step{i}") for i in range(len(self.record["log_info"]))]

    def validate(self) -> dict[str, float]:
        """The validation pass at the recorded last weights."""
        self.actor.load_state_dict(self.final)
        self.algo.set_eval()
        with torch.no_grad():
            return self._step("valid", validate=True)

    def _step(self, name: str, validate: bool = False) -> dict[str, float]:
        draws: dict[str, Any] = self.algo.draws
        draws["valid" if validate else "train"] = replayed = self.noise(name)
        batch = self.algo.process_batch_for_training(self.batch())
        batch = self.algo.postprocess_batch_for_training(batch)
        info = self.algo.train_on_batch(batch, epoch=1, validate=validate)
        if not validate:
            self.algo.on_gradient_step()
        assert not replayed.arrays, "not every recorded draw was used"
        logged = self.algo.log_info(info)
        return {k: float(torch.as_tensor(v).detach()) for k, v in logged.items()}

    def largest_error(self) -> float:
        """Of the weights, against the recorded last ones."""
        now = self.actor.state_dict()
        return max(float((value - now[key]).abs().max()) for key, value in self.final.items())

    def check(self) -> None:
        """Losses of every step, gradient norms, and the weights after the last."""
        rows = self.train()
        assert self.largest_error() < 1e-5
        assert len(rows) == len(self.record["log_info"]) == 3
        for ours, theirs in zip(rows, self.record["log_info"], strict=True):
            assert same_metrics(ours, theirs) >= 3
            # The reference logs the square of the norm.
            assert ours["actor_grad_norm"] ** 2 == pytest.approx(
                theirs["Policy_Grad_Norms"], rel=1e-4
            )


def same_metrics(ours: dict[str, float], theirs: dict[str, float]) -> int:
    """How many metrics both report; they are equal."""
    compared = [name for name in METRICS if name in theirs]
    for name in compared:
        assert ours[METRICS[name]] == pytest.approx(theirs[name], rel=1e-5), name
    return len(compared)
