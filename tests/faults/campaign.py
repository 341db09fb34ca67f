"""What is done to a run, and the question afterwards: is it the run that nothing happened to?"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rmexp import checkpoint
from tests.command_line import TESTS, Outcome, rows, status
from tests.faults.training import COUNT, NONE, Fault, World, counted, train
from tests.loggers.wandb_file import WandbFile, finished

TINY = [
    f"--config-dir={TESTS / 'conf'}",
    "dataset=tiny",
    "loop.num_epochs=4",
    "loop.steps_per_epoch=5",
    "loop.batch_size=7",
    "loop.save_every=2",
    "loop.keep=1",
]
QUIET = ["rollout=none", "logging=none"]
ROLLOUTS = [
    "loop.rollout_every=2",
    "rollout.num_episodes=3",
    "rollout.final_episodes=2",
    "rollout.horizon=6",
    "rollout.video_episodes=0",
]
NEW = "hydra.run.dir=run"
AGAIN = "resume=run"


@dataclass
class Tally:
    """Counts of what happened to the processes of a test."""

    kills: int = 0
    resumed: int = 0
    by_kind: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, faults: Sequence[Fault]) -> None:
        self.kills += len(faults)
        for fault in faults:
            kind = f"{fault.signum.name} at {fault.where or fault.at}"
            self.by_kind[kind] = self.by_kind.get(kind, 0) + 1


@dataclass(frozen=True)
class Whole:
    """The run that nothing happened to, and what it went through."""

    arguments: list[str]
    folder: Path
    counts: dict[str, Any]
    world: World

    @property
    def run(self) -> Path:
        return self.folder / "run"


def whole_run(arguments: Sequence[str], folder: Path, world: World | None = None) -> Whole:
    folder.mkdir(parents=True)
    world = world or World()
    outcome = train([*arguments, NEW], folder, COUNT, world)
    assert outcome.code == 0, outcome.text
    return Whole(list(arguments), folder, counted(folder), world)


def carried_on(whole: Whole, folder: Path, faults: Sequence[Fault], tally: Tally) -> None:
    """Start the same run; let each fault end a process, the next one resume; compare the end.

    A fault whose moment never comes (a resumed run is shorter) does nothing and is not counted.
    """
    folder.mkdir(parents=True)
    struck: list[Fault] = []
    for fault in faults:
        outcome = go_on(whole, folder, fault)
        if outcome.code == 0:
            continue
        struck.append(fault)
        assert outcome.code in _codes(fault), f"{fault}\n{outcome.text}"
        _check_stopped(folder / "run", outcome)
    tally.add(struck)
    outcome = go_on(whole, folder, NONE)
    assert outcome.code == 0, f"{faults}\n{outcome.text}"
    try:
        same(folder / "run", whole.run)
    except AssertionError as difference:
        raise AssertionError(f"after {struck}: {difference}\n{outcome.text}") from difference
    tally.resumed += len(struck)


def _codes(fault: Fault) -> tuple[int, ...]:
    if fault.at == "byte":
        return (-signal.SIGXFSZ,)
    if fault.signum == signal.SIGKILL:
        return (-signal.SIGKILL,)
    return (128 + fault.signum, -fault.signum)


def go_on(whole: Whole, folder: Path, fault: Fault) -> Outcome:
    """Resume; a run that was stopped before it had a configuration says so and is begun anew."""
    if (folder / "run" / "config.yaml").exists():
        return train([AGAIN], folder, fault, whole.world)
    if (folder / "run").exists():
        refused = train([AGAIN], folder, world=whole.world)
        assert refused.code == 1, refused.text
        assert "nothing to continue: give its command again" in refused.text
    return train([*whole.arguments, NEW], folder, fault, whole.world)


def _check_stopped(run: Path, outcome: Outcome) -> None:
    """What came to an end here left checkpoints that are whole, and a state that is true."""
    for file in run.rglob("*.pt"):
        if not file.name.startswith("."):
            checkpoint.load(file)
    if (run / "status.json").exists():
        asked = {"preempted"} if outcome.code > 0 else {"running", "preempted", "finished"}
        assert status(run)["state"] in asked, outcome.text


def same(run: Path, whole: Path) -> None:
    """The two directories hold the same run, bit for bit, timings aside."""
    assert rows(run) == rows(whole)
    names = [sorted(_files(path)) for path in (run, whole)]
    assert names[0] == names[1]
    for file in (whole / "checkpoints").glob("*.pt"):
        if file.name != "previous.pt":
            ours, theirs = (
                checkpoint.load(folder / "checkpoints" / file.name) for folder in (run, whole)
            )
            assert difference(ours, theirs) is None, f"{file.name}: {difference(ours, theirs)}"
    for key in ("state", "config_hash", "num_epochs", "objective"):
        assert status(run).get(key) == status(whole).get(key), key
    if list(whole.glob("wandb/offline-run-*")):
        assert sent(run) == sent(whole)


def _files(run: Path) -> set[str]:
    """Names of what should be there: W&B's own and each start's uncommitted changes left out."""
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("wandb/", "git"))}


def sent(run: Path) -> dict[tuple[int, str], Any]:
    """(epoch, metric) -> value in W&B's offline files: one run, and each value once."""
    values: dict[tuple[int, str], Any] = {}
    ids: set[str] = set()
    *killed, last = sorted(run.glob("wandb/offline-run-*"))
    for file in (*map(WandbFile, killed), finished(last)):
        ids |= {record.run_id for record in file.of("run")}
        for row in file.rows():
            for key, value in row.items():
                if key in ("epoch", "global_step") or key.startswith(
                    ("time/", "throughput/", "memory/")
                ):
                    continue
                assert (row["epoch"], key) not in values, f"epoch {row['epoch']} twice: {key}"
                values[row["epoch"], key] = value
    assert len(ids) == 1, ids
    return values


def difference(a: Any, b: Any, place: str = "") -> str | None:
    """Where two nested values differ, if they do; tensors and numbers bit for bit."""
    if type(a) is not type(b):
        return f"{place}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{place}: {sorted(map(str, a.keys() ^ b.keys()))}"
        found = (difference(a[key], b[key], f"{place}.{key}") for key in a)
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} and {len(b)} items"
        found = (difference(x, y, f"{place}.{i}") for i, (x, y) in enumerate(zip(a, b)))  # noqa: B905
    elif isinstance(a, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else f"{place}: {a} and {b}"
    elif isinstance(a, float) and math.isnan(a) and math.isnan(b):
        return None
    else:
        return None if a == b else f"{place}: {a!r} and {b!r}"
    return next((text for text in found if text is not None), None)
