"""A killed and resumed run is one run in W&B, with each epoch's values once."""

from __future__ import annotations

import random
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.command_line import rows
from tests.faults.campaign import ROLLOUTS, TINY, Tally, Whole, carried_on, sent, whole_run
from tests.faults.training import Fault, World

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    arguments = [*TINY, *ROLLOUTS, "algo=bc", "algo.actor_layer_dims=[16]", "rollout.num_envs=1"]
    world = World(simulator=True, environment={"WANDB_MODE": "offline"})
    return whole_run(arguments, tmp_path_factory.mktemp("wandb") / "whole", world)


def test_the_whole_run(whole: Whole) -> None:
    recorded = {
        (row["epoch"], key): value
        for row in rows(whole.run)
        for key, value in row.items()
        if key not in ("epoch", "global_step")
    }
    assert sent(whole.run) == recorded


CASES = {
    "handed over, not saved": [Fault("call", 2, "save_last")],
    "saved, not handed over": [Fault("call", 3, "LoggerGroup._log")],
    "recorded, not handed over": [Fault("call", 2, "JsonlRecord.log"), Fault("call", 1, "_seal")],
    "after the last word": [Fault("call", 1, "LoggerGroup.finish")],
    "asked to stop": [Fault("call", 12, "Watched.__iter__", SIGTERM)],
    "asked while rolling out": [Fault("call", 5, "EnvPool.collect", SIGTERM)],
}


@pytest.mark.parametrize("case", CASES)
def test_one_value_an_epoch(case: str, whole: Whole, tmp_path: Path, tally: Tally) -> None:
    carried_on(whole, tmp_path / "killed", CASES[case], tally)
    assert tally.kills


def test_one_value_an_epoch_at_any_moment(
    whole: Whole, tmp_path: Path, tally: Tally, fault_rounds: int
) -> None:
    draws = random.Random(0)
    for i in range(2 * fault_rounds):
        moments = [draws.uniform(0.2, 1) * whole.counts["call"] for _ in range(2)]
        faults = [Fault("call", moment, "", SIGKILL) for moment in moments]
        carried_on(whole, tmp_path / str(i), faults, tally)
