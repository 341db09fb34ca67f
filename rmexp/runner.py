"""The experiment: train an epoch, validate, roll out, log, save; and again.

`Runner.run` is the order of events. Each step knows by itself whether it is due, and each can be
interrupted: what `state` returns is enough to go on from there, bit for bit.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rmexp import checkpoint
from rmexp.algo.base import Algo
from rmexp.data.dataset import Dataset
from rmexp.data.loader import Loader
from rmexp.errors import CheckpointError, RolloutError
from rmexp.interrupt import Interrupt
from rmexp.loggers.base import LoggerGroup
from rmexp.loggers.console import ConsoleLogger
from rmexp.loop import run_epoch
from rmexp.loop_settings import LoopSettings, due
from rmexp.memory import memory_row
from rmexp.metrics import EpochProgress, require_finite_state
from rmexp.policy import Policy, to
from rmexp.rollout.rollouts import Rollouts
from rmexp.rollout.statistics import RolloutResult
from rmexp.rows import Row, named, rollout_row
from rmexp.run_dir import RunDirectory
from rmexp.seeding import preserved_random_state, random_state, restore_random_state
from rmexp.selection import Selection
from rmexp.watch import Watched

_log = logging.getLogger(__name__)


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

        self.obs_stats = to(dataset.obs_stats, algo.device)
        self.action_stats = to(dataset.action_stats, algo.device)
        self.rollout_failure: str | None = None
        self.epochs_done = 0
        self.global_step = 0
        self.progress = EpochProgress()
        self.selection = Selection()
        self.results: Row = {}
        self.seconds = {"train": 0.0, "valid": 0.0, "rollout": 0.0}
        self.save_seconds = 0.0
        self.logged_seconds = 0.0

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
        watched = Watched(
            self.train_loader, epoch, num_steps, self.progress, self.interrupt, self.console
        )
        try:
            row = run_epoch(
                self.algo,
                watched,
                epoch,
                num_steps=num_steps,
                obs_normalization_stats=self.obs_stats,
                progress=self.progress,
            )
        finally:
            before, self.global_step = self.global_step, steps_before + self.progress.steps
        if before == self.global_step:  # interrupted after its last step: nothing to time
            row = {k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))}
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
            Watched(self.valid_loader, epoch, num_steps, progress, self.interrupt, self.console),
            epoch,
            validate=True,
            num_steps=num_steps,
            obs_normalization_stats=self.obs_stats,
            progress=progress,
        )
        return named(row, "valid")

    def roll_out(self, epoch: int) -> Row:
        """Put the policy to the test on the starts that select the best checkpoint."""
        if self.rollouts is None or not self._rollout_due(epoch):
            return {}
        result = self._attempt(
            self.rollouts.select, f"epoch_{epoch:04d}", epoch, f"epoch {epoch}: rollout"
        )
        if result is None:
            return {}
        self.selection.add_rollout(epoch, result)
        return rollout_row(result, f"rollout/{result.env_name}")

    def log(self, epoch: int, row: Row) -> None:
        """Hand the epoch's row to the record and the views."""
        row |= memory_row(self.algo.device)
        row["time/logging_s"] = self.loggers.seconds - self.logged_seconds  # the epoch before's
        self.logged_seconds = self.loggers.seconds
        row["time/save_s"] = self.save_seconds  # the epoch before's
        for phase in ("train", "valid"):
            self.seconds[phase] += row.get(f"time/{phase}/epoch_s", 0.0)
        self.results |= {k: row[k] for k in ("train/loss", "valid/loss") if k in row}
        self.loggers.log(row, epoch=epoch, global_step=self.global_step)
        curve = self.selection.curve
        if curve and curve[-1][0] == epoch:
            epochs, rates, lows, highs = (list(column) for column in zip(*curve, strict=True))
            at = {"epoch": epoch, "global_step": self.global_step}
            self.loggers.log_curve("rollout/success_curve", epochs, rates, lows, highs, **at)

    def end_epoch(self, epoch: int, row: Row) -> None:
        """Advance what counts epochs, decide what is best, save what is due."""
        began = time.perf_counter()
        self.algo.on_epoch_end(epoch)
        self.epochs_done = epoch
        self.progress = EpochProgress()
        is_best = self.selection.is_best(epoch, row, self.valid_loader is not None)
        is_named = due(self.settings.save_every, epoch)
        is_last = epoch == self.settings.num_epochs
        if is_best or is_named or is_last or due(self.settings.save_last_every, epoch):
            self.save()
            self._name_last()
        self.save_seconds = time.perf_counter() - began

    def conclude(self) -> Row:
        """Evaluate the best checkpoint on starts that selected nothing; sum the run up."""
        if self.rollouts is not None and "success_rate" in self.selection.best:
            with self._best_weights():
                result = self._attempt(
                    self.rollouts.final, "final", self.epochs_done, "final evaluation"
                )
            if result is not None:
                row = rollout_row(result, "rollout/final")
                self.loggers.log(row, epoch=self.epochs_done, global_step=self.global_step)
                self.results |= {k: row[k] for k in row if k.startswith("rollout/")}
        return self.results | self.selection.summary()

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
            "selection": self.selection.state_dict(),
            "results": self.results,
            "dataset_sha256": self.dataset.content_hash,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` of an earlier process.

        Raises:
            CheckpointError: the data are not those that the run was trained on.
        """
        if state["dataset_sha256"] != self.dataset.content_hash:
            raise CheckpointError(
                f"{self.directory.path}: the data set has changed since this run began (sha256 "
                f"{state['dataset_sha256'][:12]}, now {self.dataset.content_hash[:12]}); "
                "give the old file with dataset.path=FILE, or start a new run"
            )
        self.algo.deserialize(state["algo"], load_optimizers=True)
        self.train_loader.load_state_dict(state["loader"])
        restore_random_state(state["random"])
        self.epochs_done = state["epochs_done"]
        self.global_step = state["global_step"]
        self.progress.load_state_dict(state["progress"])
        self.selection.load_state_dict(state["selection"])
        self.results = dict(state["results"])
        if self.epochs_done and not self.progress.steps:
            self._name_last()  # a crash may have come before that

    def save(self) -> None:
        """Write `last.pt`.

        Raises:
            NonFiniteError: the epoch under way has broken down, or its last step has ruined the
                weights; the last checkpoint stays.
        """
        self.progress.require_finite(f"epoch {self.epochs_done + 1}, training")
        state = self.state()
        trained = {name: state["algo"][name] for name in ("nets", "optimizers")}
        require_finite_state(trained, f"after epoch {self.epochs_done}, step {self.global_step}")
        checkpoint.save_last(self.directory.checkpoints, state)

    def _name_last(self) -> None:
        """Give `last.pt`, saved at the end of an epoch, the names that this epoch has earned."""
        folder, epoch = self.directory.checkpoints, self.epochs_done
        if self.selection.best.get("epoch") == epoch:
            checkpoint.link(folder / "last.pt", folder / "best.pt")
        if due(self.settings.save_every, epoch):
            checkpoint.link(folder / "last.pt", folder / f"epoch_{epoch:06d}.pt")
            checkpoint.prune(folder, self.settings.keep)

    @contextmanager
    def _best_weights(self) -> Generator[None]:
        """Lend the algorithm its best checkpoint's weights, and give it back as it was."""
        kept = copy.deepcopy({k: v for k, v in self.algo.serialize().items() if k != "optimizers"})
        self.algo.deserialize(checkpoint.load(self.directory.checkpoints / "best.pt")["algo"])
        try:
            yield
        finally:
            self.algo.deserialize(kept)

    def _rollout_due(self, epoch: int) -> bool:
        """Every so many epochs, and at the end of a run that is too short for that."""
        every, last = self.settings.rollout_every, self.settings.num_epochs
        return due(every, epoch) or (every > last and epoch == last)

    def _attempt(
        self, evaluate: Callable[..., RolloutResult], name: str, epoch: int, label: str
    ) -> RolloutResult | None:
        """A rollout whose failure ends the rollout, not the training."""
        assert self.rollouts is not None
        policy = Policy(self.algo, self.obs_stats, self.action_stats)
        video = self.directory.videos / f"{name}.mp4" if self.rollouts.video_episodes else None

        def show(done: int, total: int) -> None:
            self.console.status(f"{label}: {done} of {total} episodes")

        self.console.status(label)
        try:
            with preserved_random_state():
                result = evaluate(policy, video, self.interrupt.check, show)
        except RolloutError as error:
            if self.selection.curve:
                _log.error("%s\nThis rollout is left out; the training goes on.", error)
            else:
                _log.error("%s\nThe training goes on as with rollout=none.", error)
                self.rollout_failure = str(error).splitlines()[0]
                self.rollouts.close()
                self.rollouts = None
            return None
        self.seconds["rollout"] += result.wall_s
        if result.video is not None:
            at = {"epoch": epoch, "global_step": self.global_step}
            self.loggers.log_video(f"rollout/{result.env_name}/video", result.video, **at)
        return result
