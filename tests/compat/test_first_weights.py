"""Cases of the reference whose first weights are known, at other seeds, sizes and options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.algo.base import Algo
from rmexp.compat.robomimic import (
    algo_from_robomimic,
    load_robomimic_nets,
    replay_draws,
    robomimic_nets,
)
from tests.compat.reference_case import batch_of, largest_difference

CASES = sorted(
    file.stem.removeprefix("robomimic_v03_")
    for file in (Path(__file__).parent.parent / "golden").glob("robomimic_v03_*.npz")
    if not file.stem.endswith("_actions")
)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 27


def built(arrays: Any) -> Algo:
    record: dict[str, Any] = json.loads(str(arrays["record"]))
    return algo_from_robomimic(
        record["algo_name"],
        record["algo_config"],
        record["obs_shapes"],
        record["ac_dim"],
        record["train"],
        observation=record["observation"],
    )


def weights_of(arrays: Any) -> Callable[[str], dict[str, Any]]:
    """What lies below a name, `init/` or another."""

    def below(place: str) -> dict[str, Any]:
        return {
            key.removeprefix(place): arrays[key] for key in arrays.files if key.startswith(place)
        }

    return below


@pytest.mark.parametrize("name", CASES)
def test_training_equals_the_references(golden: Path, name: str) -> None:
    arrays = np.load(golden / f"robomimic_v03_{name}.npz")
    record: dict[str, Any] = json.loads(str(arrays["record"]))
    algo, weights = built(arrays), weights_of(arrays)
    load_robomimic_nets(algo, weights("init/"))
    algo.set_train()
    worst = 0.0
    for i, theirs in enumerate(record["log_info"]):
        names = sorted(key for key in arrays.files if key.startswith(f"noise/step{i}/"))
        with replay_draws(algo, [(key.rpartition("/")[2], arrays[key]) for key in names]):
            batch = algo.process_batch_for_training(batch_of(arrays))
            batch = algo.postprocess_batch_for_training(batch)
            info = algo.train_on_batch(batch, epoch=1)
        algo.on_gradient_step()
        logged = {k: float(torch.as_tensor(v).detach()) for k, v in algo.log_info(info).items()}
        if record["algo_name"] == "iris":
            del theirs["Planner/Loss"]  # of two parts; each is compared
        difference, compared = largest_difference(logged, theirs)
        assert compared >= 3
        worst = max(worst, difference)
        algo.on_epoch_end(i + 1)

    now = robomimic_nets(algo)
    apart = max(float(abs(value - now[key]).max()) for key, value in weights("after/").items())
    sys.stdout.write(f"{name}: losses {worst:.1e} (relative), weights {apart:.1e} (absolute)\n")
    assert worst < 1e-5
    assert apart < 1e-6


ACTING = [name for name in CASES if name.startswith(("hbc", "iris")) or name.endswith("rnn_goal")]


@pytest.mark.parametrize("name", ACTING)
def test_acting_equals_the_references(golden: Path, name: str) -> None:
    """With goals and subgoals, renewed every third step, on recorded draws."""
    arrays = np.load(golden / f"robomimic_v03_{name}.npz")
    algo, weights = built(arrays), weights_of(arrays)
    load_robomimic_nets(algo, weights("after/"))
    algo.set_eval()
    obs = {key: torch.from_numpy(value) for key, value in weights("act/obs/").items()}
    goal = {key: torch.from_numpy(value) for key, value in weights("act/goal/").items()}
    names = sorted(key for key in arrays.files if key.startswith("noise/act/"))
    draws = [(key.rpartition("/")[2], arrays[key]) for key in names]
    with replay_draws(algo, draws), torch.no_grad():
        acted = [
            algo.get_action({k: v[i : i + 1] for k, v in obs.items()}, goal or None)
            for i in range(7)
        ]
    expected = torch.from_numpy(arrays["act/actions"])
    torch.testing.assert_close(torch.cat(acted), expected, atol=1e-6, rtol=0)
