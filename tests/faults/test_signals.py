"""Signals at chosen moments: in mid-epoch, while validating, rolling out, saving, finishing."""

from __future__ import annotations

from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1

import pytest

from tests.faults.campaign import ROLLOUTS, TINY, Tally, Whole, carried_on, whole_run
from tests.faults.training import Fault, World

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MOMENTS = {
    "start": ("prepare_torch", 1),
    "reading the data": ("Dataset._read", 1),
    "building": ("algo", 1),
    "the first step": ("EpochProgress.add", 1),
    "mid-epoch": ("Watched.__iter__", 11),
    "validation": ("Runner.validate", 2),
    "mid-validation": ("EpochProgress.add", 6),
    "rollout": ("Rollouts.select", 1),
    "mid-rollout": ("EnvPool.collect", 9),
    "writing the record": ("_append", 3),
    "saving": ("save_last", 2),
    "sealing": ("_seal", 3),
    "a second name": ("link", 4),
    "the epoch's end": ("Algo.on_epoch_end", 3),
    "the final evaluation": ("Rollouts.final", 1),
    "closing the loggers": ("LoggerGroup.finish", 1),
    "the last word": ("RunDirectory.write_status", 2),
}
"""Function and which of its calls."""


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    arguments = [*TINY, *ROLLOUTS, "logging=none", "algo=bc_gmm", "algo.actor_layer_dims=[16]"]
    folder = tmp_path_factory.mktemp("rolling") / "whole"
    return whole_run([*arguments, "rollout.num_envs=1"], folder, World(simulator=True))


def faults(moment: str, rounds: int) -> list[Fault]:
    """SIGKILL there; and a signal that asks, once or twice in a row (in the long run all)."""
    where, number = MOMENTS[moment]
    asking = [(signum, times) for times in (1, 2) for signum in (SIGTERM, SIGINT, SIGUSR1)]
    first = list(MOMENTS).index(moment) % len(asking)
    chosen = asking[first:][:1] if rounds == 1 else asking
    return [
        Fault("call", number, where, signum, times) for signum, times in [(SIGKILL, 1), *chosen]
    ]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at(
    moment: str, rolling: Whole, tmp_path: Path, tally: Tally, fault_rounds: int
) -> None:
    for i, fault in enumerate(faults(moment, fault_rounds)):
        carried_on(rolling, tmp_path / str(i), [fault], tally)
    assert tally.kills
