"""Cases of the reference whose first weights are known, at other seeds, sizes and options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
    assert len(CASES) == 17


@pytest.mark.parametrize("name", CASES)
def test_training_equals_the_references(golden: Path, name: str) -> None:
    arrays = np.load(golden / f"robomimic_v03_{name}.npz")
    record: dict[str, Any] = json.loads(str(arrays["record"]))

    def weights(when: str) -> dict[str, Any]:
        return {key.removeprefix(when): arrays[key] for key in arrays.files if key.startswith(when)}

    algo = algo_from_robomimic(
        record["algo_name"],
        record["algo_config"],
        record["obs_shapes"],
        record["ac_dim"],
        record["train"],
        observation=record["observation"],
    )
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
        difference, compared = largest_difference(logged, theirs)
        assert compared >= 3
        worst = max(worst, difference)
        algo.on_epoch_end(i + 1)

    now = robomimic_nets(algo)
    apart = max(float(abs(value - now[key]).max()) for key, value in weights("after/").items())
    sys.stdout.write(f"{name}: losses {worst:.1e} (relative), weights {apart:.1e} (absolute)\n")
    assert worst < 1e-5
    assert apart < 1e-6
