"""Records demonstrations by a scripted expert: `python -m rmexp.tools.generate task=lift out=F`.

Episode i is a function of the task and of seed + i, so one process and many write the same file,
and an interrupted run continues with the episodes it has.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmexp.arguments import argument, run_command
from rmexp.errors import ConfigError, DatasetError, RolloutError
from rmexp.rollout.environments import simulator_missing
from rmexp.tools.demo_file import MODULES, env_args_of, write_demo_file
from rmexp.tools.recording import record_episode
from rmexp.tools.tasks import TASKS

PROG = "python -m rmexp.tools.generate"


@dataclass(kw_only=True)
class GenerateArguments:
    """Record demonstrations of a task by its scripted expert, as one robomimic-layout HDF5 file."""

    task: str = argument("what to record", choices=tuple(TASKS))
    out: str = argument("file to write")
    n: int = argument("number of episodes", default=200)
    seed: int = argument("episode i starts from seed + i", default=0)
    num_workers: int = argument("simulator processes", default=2)
    layout: str = argument(
        "full adds simulator states, model and next_obs",
        default="compact",
        choices=("compact", "full"),
    )
    cameras: list[str] = argument(
        "views to record as images, e.g. [agentview,robot0_eye_in_hand]", default=[]
    )
    camera_size: int = argument("height and width of the images", default=84)
    overwrite: bool = argument("replace the file if it exists", default=False)

    def __post_init__(self) -> None:
        for name in ("n", "num_workers", "camera_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{PROG}: {name}={getattr(self, name)} is too small; at least 1")
        if self.seed < 0:
            raise ConfigError(f"{PROG}: seed={self.seed} is negative; seeds start at 0")


def generate(arguments: GenerateArguments) -> None:
    """Record all episodes that are not there yet, then write the file and drop the parts."""
    out = Path(arguments.out).expanduser()
    task = TASKS[arguments.task]
    missing = simulator_missing(task.env_args)
    if missing:
        raise RolloutError(missing)
    env_args = env_args_of(task, arguments.cameras, arguments.camera_size)
    if out.exists() and not arguments.overwrite:
        raise ConfigError(f"{out} exists; choose another out=..., or say overwrite=true")
    started = time.monotonic()
    partial = out.with_name(f"{out.name}.partial")
    paths = [partial / f"episode_{i:06d}.npz" for i in range(arguments.n)]
    try:
        _open_partial(partial, arguments)
        reused = sum(path.exists() for path in paths)
        _record_missing(arguments, env_args, paths)
        summary = write_demo_file(out, arguments, env_args, paths)
        shutil.rmtree(partial)
    except KeyboardInterrupt:
        done = sum(path.exists() for path in paths)
        raise KeyboardInterrupt(
            f"{done} of {arguments.n} episodes are kept in {partial}; the same command continues"
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{error.filename or partial}: {error.strerror or error}; make room or permit writing, "
            "then the same command continues"
        ) from error
    kept = f", {reused} of them from an earlier run" if reused else ""
    Console(soft_wrap=True).print(
        f"{out}: {summary}{kept}; {time.monotonic() - started:.0f} s", highlight=False
    )


def _open_partial(partial: Path, arguments: GenerateArguments) -> None:
    """The folder of finished episodes; parts of another data set are refused, not mixed in."""
    free = {"out", "num_workers", "overwrite", "n"}  # change no episode
    settings = {key: value for key, value in asdict(arguments).items() if key not in free}
    settings |= {module: importlib.metadata.version(module) for module in MODULES}
    partial.mkdir(parents=True, exist_ok=True)
    note = partial / "settings.json"
    if note.exists():
        before = json.loads(note.read_text())
        changed = sorted(key for key in settings if before.get(key) != settings[key])
        if changed:
            listed = ", ".join(f"{key} was {before.get(key)}" for key in changed)
            raise ConfigError(
                f"{partial} holds episodes of other settings ({listed}); delete it, or choose "
                "another out=..."
            )
    note.write_text(json.dumps(settings, indent=2))


def _record_missing(
    arguments: GenerateArguments, env_args: dict[str, Any], paths: Sequence[Path]
) -> None:
    """Spread the episodes that have no part yet over the workers."""
    todo = [i for i, path in enumerate(paths) if not path.exists()]
    if not todo:
        return
    columns = (
        TextColumn(f"{arguments.task}: recording"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with _workers(arguments, env_args, len(todo)) as pool:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: the parent decides
            try:
                futures = {pool.submit(_record_one, i, paths[i]) for i in todo}
            finally:
                signal.signal(signal.SIGINT, before)
            with Progress(*columns, console=Console(stderr=True)) as progress:
                start = len(paths) - len(todo)
                bar = progress.add_task("episodes", total=len(paths), completed=start)
                for future in as_completed(futures):
                    future.result()
                    progress.advance(bar)
    except BrokenProcessPool as error:
        raise RolloutError(
            "a simulator process died (out of memory? each needs about 0.8 GB: try "
            "num_workers=1); the same command continues with the episodes that are done"
        ) from error


@contextmanager
def _workers(
    arguments: GenerateArguments, env_args: dict[str, Any], num_episodes: int
) -> Generator[ProcessPoolExecutor]:
    """Spawned simulator processes, gone when the block ends, however it ends."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the children's numpy at its import
    pool = ProcessPoolExecutor(
        min(arguments.num_workers, num_episodes),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(arguments, env_args),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


_worker: dict[str, Any] = {}  # this process's simulator, made at its first episode


def _start_worker(arguments: GenerateArguments, env_args: dict[str, Any]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(arguments=arguments, env_args=env_args)


def _end_with_parent() -> None:
    """A parent that was killed cannot say goodbye: nobody would ever end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _record_one(index: int, path: Path) -> None:
    from rmexp.rollout.robosuite import RobosuiteEnvironment

    arguments: GenerateArguments = _worker["arguments"]
    task = TASKS[arguments.task]
    full = arguments.layout == "full"
    keys = [
        *(task.full_obs_keys if full else task.obs_keys),
        *(f"{camera}_image" for camera in arguments.cameras),
    ]
    if "env" not in _worker:
        _worker["env"] = RobosuiteEnvironment(_worker["env_args"], keys)
        Finalize(None, _worker["env"].close, exitpriority=1)  # pool processes run no atexit
    record_episode(
        _worker["env"],
        task,
        index=index,
        seed=arguments.seed + index,
        obs_keys=keys,
        with_states=full,
    ).save(path)


if __name__ == "__main__":
    sys.exit(run_command(GenerateArguments, generate, prog=PROG))
