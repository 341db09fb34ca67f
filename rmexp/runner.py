"""The experiment: train an epoch, validate, roll out, log, save; and again.

`Runner.run` is the order of events. Each step knows by itself whether it is due, and each can be
interrupted: what `state` returns is enough to go on from there, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from rmexp import checkpoint
from rmexp.algo.base import Algo
from rmexp.data.dataset import Dataset
from rmexp.data.loader import Loader
from rmexp.errors import RolloutError
from rmexp.interrupt import Interrupt
from rmexp.loggers.base import LoggerGroup
from rmexp.loggers.console import ConsoleLogger
from rmexp.loop import run_epoch
from rmexp.memory import memory_row
from rmexp.metrics import EpochProgress
from rmexp.policy import Policy
from rmexp.rollout.rollouts import Rollouts
from rmexp.rollout.statistics import RolloutResult
from rmexp.run_dir import RunDirectory
from rmexp.seeding import preserved_random_state, random_state, restore_random_state
from rmexp.settings import LoopSettings, due
from rmexp.watch import Watched

_log = logging.getLogger(__name__)

Row = dict[str, float]

SHOWN = (
    "epoch",
    "loss",
    "success_rate",
    "success_rate_low",
    "success_rate_high",
    "num_episodes",
)
"""What the summary repeats of the best epoch."""


class Runner:
    """Trains one algorithm on one data set; owns the counters and what "best" means."""

    def __init__(
        self,
        *,
        settings: LoopSettings,
        config: dict[str, Any],
        dataset: Dataset,
        algo: Algo,
        train_loader: Loader,
        valid_loader: Loader | None,
        rollouts: Rollouts | None,
        loggers: LoggerGroup,
        console: ConsoleLogger,
        directory: RunDirectory,
        interrupt: Interrupt,
    ) -> None:
        self.settings = settings
        self.config = config
        self.dataset = dataset
        self.algo = algo
        self.train_loader = train_loader
        self.valid_loader = valid_loader
        self.rollouts = rollouts
        self.loggers = loggers
        self.console = console
        self.directory = directory
        self.interrupt = interrupt

        self.epochs_done = 0
        self.global_step = 0
        self.progress = EpochProgress()
        self.best: dict[str, Any] = {}
        self.curve: list[list[float]] = []
        self.results: Row = {}
        self.seconds = {"train": 0.0, "valid": 0.0, "rollout": 0.0}
        self.save_seconds = 0.0

    def run(self) -> Row:
        """All epochs that are left; returns the summary."""
        for epoch in range(self.epochs_done + 1, self.settings.num_epochs + 1):
            row = self.train(epoch)
            row |= self.validate(epoch)
            row |= self.roll_out(epoch)
            self.log(epoch, row)
            self.end_epoch(epoch, row)
        return self.conclude()

    def train(self, epoch: int) -> Row:
        """One epoch of gradient steps, or what is left of it."""
        steps_before = self.global_step - self.progress.steps
        num_steps = self.settings.steps_per_epoch or len(self.train_loader)
        watched = self._watched(self.train_loader, epoch, num_steps, self.progress)
        try:
            row = run_epoch(
                self.algo,
                watched,
                epoch,
                num_steps=num_steps,
                obs_normalization_stats=self.dataset.obs_stats,
                progress=self.progress,
            )
        finally:
            self.global_step = steps_before + self.progress.steps
        return named(row, "train")

    def validate(self, epoch: int) -> Row:
        """The same loop on the held-out episodes, without a trace."""
        if self.valid_loader is None or not due(self.settings.validate_every, epoch):
            return {}
        self.console.status(f"epoch {epoch}: validating")
        progress = EpochProgress()
        num_steps = self.settings.valid_steps or len(self.valid_loader)
        row = run_epoch(
            self.algo,
            self._watched(self.valid_loader, epoch, num_steps, progress),
            epoch,
            validate=True,
            num_steps=num_steps,
            obs_normalization_stats=self.dataset.obs_stats,
            progress=progress,
        )
        return named(row, "valid")

    def roll_out(self, epoch: int) -> Row:
        """Put the policy to the test on the starts that select the best checkpoint."""
        if self.rollouts is None or not due(self.settings.rollout_every, epoch):
            return {}
        result = self._attempt(self.rollouts.select, f"epoch_{epoch:04d}", epoch)
        if result is None:
            return {}
        metrics = result.metrics()
        point = [metrics[f"success_rate{end}"] for end in ("", "_low", "_high")]
        self.curve.append([float(epoch), *point])
        return rollout_row(result, f"rollout/{result.env_name}")

    def log(self, epoch: int, row: Row) -> None:
        """Hand the epoch's row to the record and the views."""
        row |= memory_row(self.algo.device)
        row["time/logging_s"] = self.loggers.seconds
        row["time/save_s"] = self.save_seconds
        for phase in ("train", "valid"):
            self.seconds[phase] += row.get(f"time/{phase}/epoch_s", 0.0)
        self.results |= {k: row[k] for k in ("train/loss", "valid/loss") if k in row}
        self.loggers.log(row, epoch=epoch, global_step=self.global_step)
        if self.curve and self.curve[-1][0] == epoch:
            epochs, rates, lows, highs = (list(column) for column in zip(*self.curve, strict=True))
            at = {"epoch": epoch, "global_step": self.global_step}
            self.loggers.log_curve("rollout/success_curve", epochs, rates, lows, highs, **at)

    def end_epoch(self, epoch: int, row: Row) -> None:
        """Advance what counts epochs, decide what is best, save what is due."""
        began = time.perf_counter()
        self.algo.on_epoch_end(epoch)
        self.epochs_done = epoch
        self.progress = EpochProgress()
        is_best = self._is_best(epoch, row)
        is_named = due(self.settings.save_every, epoch)
        is_last = epoch == self.settings.num_epochs
        if is_best or is_named or is_last or due(self.settings.save_last_every, epoch):
            self.save()
            last = self.directory.checkpoints / "last.pt"
            if is_best:
                checkpoint.link(last, self.directory.checkpoints / "best.pt")
            if is_named:
                checkpoint.link(last, self.directory.checkpoints / f"epoch_{epoch:06d}.pt")
                checkpoint.prune(self.directory.checkpoints, self.settings.keep)
        self.save_seconds = time.perf_counter() - began

    def conclude(self) -> Row:
        """Evaluate the best checkpoint on starts that selected nothing; sum the run up."""
        if self.rollouts is not None and "success_rate" in self.best:
            best = self.directory.checkpoints / "best.pt"
            self.algo.deserialize(checkpoint.load(best)["algo"])
            result = self._attempt(self.rollouts.final, "final", self.epochs_done)
            if result is not None:
                row = rollout_row(result, "rollout/final")
                self.loggers.log(row, epoch=self.epochs_done, global_step=self.global_step)
                self.results |= {k: row[k] for k in row if k.startswith("rollout/")}
        self.results |= {f"best/{name}": self.best[name] for name in SHOWN if name in self.best}
        return self.results

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on as if nothing had happened."""
        return {
            "config": self.config,
            "spec": asdict(self.algo.spec),
            "env_args": self.dataset.env_args,
            "obs_stats": self.dataset.obs_stats,
            "action_stats": self.dataset.action_stats,
            "algo": self.algo.serialize(),
            "loader": self.train_loader.state_dict(),
            "random": random_state(),
            "epochs_done": self.epochs_done,
            "global_step": self.global_step,
            "progress": self.progress.state_dict(),
            "best": self.best,
            "curve": self.curve,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` of an earlier process."""
        self.algo.deserialize(state["algo"], load_optimizers=True)
        self.train_loader.load_state_dict(state["loader"])
        restore_random_state(state["random"])
        self.epochs_done = state["epochs_done"]
        self.global_step = state["global_step"]
        self.progress.load_state_dict(state["progress"])
        self.best, self.curve = state["best"], state["curve"]

    def save(self) -> None:
        checkpoint.save(self.directory.checkpoints / "last.pt", self.state())

    def _watched(
        self, loader: Loader, epoch: int, num_steps: int, progress: EpochProgress
    ) -> Watched:
        return Watched(
            loader,
            epoch=epoch,
            num_steps=num_steps,
            progress=progress,
            interrupt=self.interrupt,
            console=self.console,
        )

    def _is_best(self, epoch: int, row: Row) -> bool:
        """By success rate once there is one, else by validation loss, else by loss."""
        rolled_out = {k.rpartition("/")[2]: v for k, v in row.items() if k.startswith("rollout/")}
        if self.curve:
            better = rolled_out.get("success_rate", -1.0) > self.best.get("success_rate", -1.0)
            new = rolled_out
        else:
            loss = row.get("valid/loss", math.inf if self.valid_loader else row["train/loss"])
            better = loss < self.best.get("loss", math.inf)
            new = {"loss": loss}
        if better:
            self.best = {"epoch": float(epoch), **new}
        return better

    def _attempt(
        self, evaluate: Callable[..., RolloutResult], name: str, epoch: int
    ) -> RolloutResult | None:
        """A rollout whose failure ends the rollout, not the training."""
        assert self.rollouts is not None
        policy = Policy(self.algo, self.dataset.obs_stats, self.dataset.action_stats)
        video = self.directory.videos / f"{name}.mp4" if self.rollouts.video_episodes else None

        def show(done: int, total: int) -> None:
            self.console.status(f"epoch {epoch}: rollout, {done} of {total} episodes")

        show(0, self.rollouts.num_episodes)
        try:
            with preserved_random_state():
                result = evaluate(policy, video, self.interrupt.check, show)
        except RolloutError as error:
            _log.error("%s\nThis rollout is left out; the training goes on.", error)
            return None
        self.seconds["rollout"] += result.wall_s
        if result.video is not None:
            at = {"epoch": epoch, "global_step": self.global_step}
            self.loggers.log_video(f"rollout/{result.env_name}/video", result.video, **at)
        return result


def named(row: Row, phase: str) -> Row:
    """`run_epoch`'s names with their place: loss -> train/loss, time/x_s -> time/train/x_s."""
    out: Row = {}
    for name, value in row.items():
        place, slash, rest = name.partition("/")
        if not slash:
            out[f"{phase}/{name}"] = value
        elif place == "time":
            out[f"time/{phase}/{rest}"] = value
        elif phase == "train":
            out[name] = value
    return out


def rollout_row(result: RolloutResult, place: str) -> Row:
    """A rollout's metrics under `place`, its seconds under `time/rollout`."""
    row = {f"{place}/{name}": value for name, value in result.metrics().items() if name != "wall_s"}
    times = asdict(result.times)
    row["time/rollout/epoch_s"] = times.pop("wall_s")
    return row | {f"time/rollout/{name}": seconds for name, seconds in times.items()}
