"""Cases of the reference that draw choices and mixtures, in training and when acting.

Its `multinomial` and `normal` are injected as they were drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.algo.base import Algo
from rmexp.compat.robomimic import (
    ReplayError,
    algo_from_robomimic,
    load_robomimic_nets,
    replay_draws,
    robomimic_nets,
)
from tests.compat.reference_case import batch_of, largest_difference

CASES = {
    "bc_gaussian": 3,
    "bc_gmm": 3,
    "bc_rnn_gmm": 3,
    "bcq_gmm": 8,
    "bcq_gmm_prior": 8,
    "bcq_categorical_prior": 8,
}
"""How many metrics of each are compared."""


class Recorded:
    def __init__(self, golden: Path, name: str) -> None:
        self.arrays = np.load(golden / f"drawn_{name}.npz")
        self.record: dict[str, Any] = json.loads(str(self.arrays["record"]))

    def below(self, place: str) -> dict[str, Any]:
        files = sorted(key for key in self.arrays.files if key.startswith(place))
        return {key.removeprefix(place): self.arrays[key] for key in files}

    def draws(self, when: str) -> list[tuple[str, Any]]:
        return list(self.below(f"noise/{when}/").items())

    def algo(self, weights: str) -> Algo:
        names = ("algo_name", "algo_config", "obs_shapes", "ac_dim", "train")
        algo = algo_from_robomimic(
            *(self.record[name] for name in names), observation=self.record["observation"]
        )
        load_robomimic_nets(algo, self.below(weights))
        return algo


@pytest.mark.parametrize("name", CASES)
def test_training_equals_the_references(golden: Path, name: str) -> None:
    case = Recorded(golden, name)
    algo = case.algo("init/")
    algo.set_train()
    for i, theirs in enumerate(case.record["log_info"]):
        with replay_draws(algo, case.draws(f"step{i}")):
            batch = algo.process_batch_for_training(batch_of(case.arrays))
            batch = algo.postprocess_batch_for_training(batch)
            info = algo.train_on_batch(batch, epoch=1)
        algo.on_gradient_step()
        logged = {k: float(torch.as_tensor(v).detach()) for k, v in algo.log_info(info).items()}
        difference, compared = largest_difference(logged, theirs)
        assert difference < 1e-5
        assert compared == CASES[name]
    now = robomimic_nets(algo)
    for key, value in case.below("after/").items():
        assert float(abs(value - now[key]).max()) < 1e-6, key


@pytest.mark.parametrize("name", CASES)
def test_acting_equals_the_references(golden: Path, name: str) -> None:
    case = Recorded(golden, name)
    algo = case.algo("after/")
    algo.set_eval()
    algo.reset()
    steps = sorted(case.below("action/").items())
    assert len(steps) >= 2
    for step, expected in steps:
        obs = {k: torch.from_numpy(v) for k, v in case.below(f"act/{step}/").items()}
        with torch.no_grad(), replay_draws(algo, case.draws(f"act{step}")):
            actions = algo.get_action(obs)
        np.testing.assert_allclose(actions.numpy(), expected, rtol=0, atol=1e-5)


def test_another_choice_is_another_action(golden: Path) -> None:
    """So the recorded choices do decide."""
    case = Recorded(golden, "bc_gmm")
    algo = case.algo("after/")
    (choice, chosen), rest = case.draws("act0")[0], case.draws("act0")[1:]
    obs = {k: torch.from_numpy(v) for k, v in case.below("act/0/").items()}
    with torch.no_grad(), replay_draws(algo, [(choice, (chosen + 1) % 4), *rest]):
        other = algo.get_action(obs)
    assert (abs(other.numpy() - case.arrays["action/0"]).max(1) > 1e-3).all()
    with (
        pytest.raises(ReplayError, match=r"is not within \[0, 4\)"),
        replay_draws(algo, [(choice, chosen + 4), *rest]),
    ):
        algo.get_action(obs)
