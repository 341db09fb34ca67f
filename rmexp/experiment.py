"""One run from beginning to end: build, start, train, and leave the truth behind however it ends.

`status.json` says `running`, then `finished`, `failed` or `preempted`; the loggers are closed with
the exit code in every case.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from rmexp import build, checkpoint, provenance
from rmexp.algo.base import Spec
from rmexp.data.dataset import Dataset
from rmexp.determinism import prepare_torch
from rmexp.errors import CheckpointError, ConfigError
from rmexp.interrupt import Interrupt, Interrupted
from rmexp.loggers.base import LoggerGroup, RunInfo
from rmexp.loggers.console import ConsoleLogger
from rmexp.loggers.jsonl import JsonlRecord
from rmexp.loggers.report import path_for_shell
from rmexp.loop_settings import LoopSettings
from rmexp.run_dir import RunDirectory
from rmexp.runner import Runner
from rmexp.seeding import derive, seed_global

_log = logging.getLogger(__name__)


def run(
    config: DictConfig, path: Path, *, overrides: list[str], group: str | None, resume: bool
) -> float | None:
    """Run the experiment of `config` in the directory `path`, whose lock the caller holds.

    Args:
        config: a complete configuration.
        path: the run's directory.
        overrides: what was typed.
        group: the sweep this run belongs to.
        resume: go on with the run that is there.

    Returns:
        The objective, or None if there is none.

    Raises:
        RmexpError: the run failed; nothing saved before is lost.
        SystemExit: with 128 + n after signal n, everything saved.
    """
    directory = RunDirectory(path)
    began = time.perf_counter()
    interrupt = Interrupt()
    with interrupt.listening():
        group = group or (directory.status() or {}).get("group")
        try:
            build.check_config(config)
            if not resume:
                directory.create(config, overrides)
                directory.write_status("running", config, group=group)
            objective = _run(config, directory, group, resume, interrupt, began)
        except Interrupted as stop:
            directory.write_status("preempted", config, error=str(stop), group=group)
            name = signal.Signals(stop.signum).name
            where = path_for_shell(path)
            _log.warning("stopped by %s; go on with: python -m rmexp resume=%s", name, where)
            raise SystemExit(128 + stop.signum) from stop
        except BaseException as error:
            state = (directory.status() or {}).get("state")
            if state == "running" or not directory.holds_a_run():
                text = f"{type(error).__name__}: {error}"
                try:
                    directory.write_status("failed", config, error=text, group=group)
                except CheckpointError as second:  # the same full disk; the first error matters
                    _log.debug("%s", second)
            raise
        directory.write_status("finished", config, objective=objective, group=group)
    return objective


def _run(
    config: DictConfig,
    directory: RunDirectory,
    group: str | None,
    resume: bool,
    interrupt: Interrupt,
    began: float,
) -> float | None:
    prepare_torch(num_threads=config.num_threads, deterministic=config.deterministic)
    settings = build.loop_settings(config)
    build.device(config.device)  # refused before the data are read
    dataset = build.dataset(config)
    provenance.record(directory, dataset.content_hash)
    for line in dataset.summary().splitlines():
        _log.info(line)

    with ExitStack() as stack:
        console = ConsoleLogger()
        record = JsonlRecord(directory.metrics_file)
        loggers = LoggerGroup(record, [console, *build.views(config)])
        runner = _build_runner(config, directory, settings, dataset, loggers, console, interrupt)
        if runner.rollouts is not None:
            stack.callback(runner.rollouts.close)
        if resume:
            _load_last(runner, directory, record)
            directory.write_config(config)
            directory.write_status("running", config, group=group)
        info = RunInfo(
            run_dir=directory.path,
            name=f"{config.name}/{directory.path.name}",
            config=runner.config,
            tags=list(config.tags),
            group=group,
            job_type="train",
            resumed=resume,
            total_epochs=settings.num_epochs,
            git=provenance.git_state(),
        )
        return _train(runner, config, info, loggers, began)


def _train(
    runner: Runner,
    config: DictConfig,
    info: RunInfo,
    loggers: LoggerGroup,
    began: float,
) -> float | None:
    """Run the epochs; close the loggers with the exit code whatever happens."""
    summary: dict[str, float | str] = {}
    exit_code = 1
    try:
        try:
            loggers.start(info)
            summary |= runner.run()
            exit_code = 0
        except Interrupted as stop:
            exit_code = 128 + stop.signum
            runner.save()
            raise
    finally:
        summary["time/total_s"] = time.perf_counter() - began
        summary |= {f"time/{phase}_s": spent for phase, spent in runner.seconds.items()}
        path = path_for_shell(info.run_dir)
        if runner.rollout_failure:
            summary["success"] = f"not measured: {runner.rollout_failure}"
        summary["paths/run"] = path
        if (info.run_dir / "checkpoints" / "best.pt").exists():
            summary["paths/best_checkpoint"] = f"{path}/checkpoints/best.pt"
        if (info.run_dir / "videos").is_dir():
            summary["paths/videos"] = f"{path}/videos"
        longer = "" if exit_code else f" loop.num_epochs={2 * runner.settings.num_epochs}"
        summary["how_to/resume"] = f"python -m rmexp resume={path}{longer}"
        loggers.finish(summary, exit_code)
    return _objective(config, summary)


def _build_runner(
    config: DictConfig,
    directory: RunDirectory,
    settings: LoopSettings,
    dataset: Dataset,
    loggers: LoggerGroup,
    console: ConsoleLogger,
    interrupt: Interrupt,
) -> Runner:
    """Loaders, algorithm and rollouts for this data set."""
    device = build.device(config.device)
    keys = build.batch_keys(config)
    train_loader = dataset.train_loader(
        batch_size=settings.batch_size,
        seed=derive(config.seed, "data"),
        keys=keys,
        device=device,
    )
    valid_loader = dataset.valid_loader(batch_size=settings.batch_size, keys=keys, device=device)
    for line in dataset.warnings:
        _log.warning("note: %s", line)
    steps_per_epoch = settings.steps_per_epoch or len(train_loader)
    shapes = build.network_shapes(dataset.obs_shapes)
    spec = Spec(
        obs_shapes=shapes,
        goal_shapes=shapes if config.dataset.goal_mode else {},
        ac_dim=dataset.ac_dim,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=settings.num_epochs * steps_per_epoch,
        seed=config.seed,
    )
    seed_global(config.seed)
    algo = build.algo(config, spec, device)
    _log.info(
        "%s: %s parameters on %s; %d epochs of %d steps",
        config.name,
        f"{algo.num_parameters():,}",
        device,
        settings.num_epochs,
        steps_per_epoch,
    )
    rollouts = build.rollouts(config, dataset.env_args, list(dataset.obs_shapes))
    missing = None if rollouts is None else algo.cannot_roll_out() or rollouts.missing
    if missing is not None:
        _log.warning("%s (rollout=none silences this line)", missing)
        rollouts = None
    return Runner(
        settings=settings,
        config=cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True)),
        dataset=dataset,
        algo=algo,
        train_loader=train_loader,
        valid_loader=valid_loader,
        rollouts=rollouts,
        loggers=loggers,
        console=console,
        directory=directory,
        interrupt=interrupt,
    )


def _load_last(runner: Runner, directory: RunDirectory, record: JsonlRecord) -> None:
    state = checkpoint.load_last(directory.checkpoints)
    if state is None:
        _log.warning("%s has no checkpoint yet; the run starts from its beginning", directory.path)
        record.truncate(0)
        return
    runner.load_state(state)
    record.truncate(runner.epochs_done)
    step = f", step {runner.progress.steps}" if runner.progress.steps else ""
    _log.info("resumed after epoch %d%s of %s", runner.epochs_done, step, directory.path)
    before, now = state["config"]["loop"]["num_epochs"], runner.settings.num_epochs
    if now < runner.epochs_done:
        raise ConfigError(
            f"loop.num_epochs={now}: {directory.path} has done {runner.epochs_done} epochs "
            "already; give as many at least"
        )
    if before != now:
        how = "extended" if now > before else "cut short"
        _log.info("loop.num_epochs: %d -> %d, the run is %s", before, now, how)


def _objective(config: DictConfig, summary: dict[str, float | str]) -> float | None:
    """The number a sweeper optimises: the configured metric, else success, else the best loss."""
    if config.objective is not None:
        value = summary.get(config.objective)
        if isinstance(value, str) or value is None:
            numbers = sorted(k for k, v in summary.items() if not isinstance(v, str))
            _log.warning(
                "objective=%s: the run's summary has no such number, so a sweeper learns nothing "
                "from this run; it has %s",
                config.objective,
                ", ".join(numbers),
            )
            return None
        return value
    for name in ("rollout/final/success_rate", "best/loss", "train/loss"):
        value = summary.get(name)
        if isinstance(value, float) and math.isfinite(value):
            return value
    return None
