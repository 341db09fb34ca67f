"""What only a process of its own can tell: how long it takes to start, how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from rmexp import build
from rmexp.memory import memory_row
from rmexp.tools.bench_blocks import Row, Unmeasured
from rmexp.tools.bench_files import CAMERAS, LOW_DIM, configuration, image_file, lift_file
from rmexp.tools.bench_parts import CPU, Setting

BEST_OF = 3
LIMIT_S = 120
POLL_S = 0.01
BATCHES = 20


def measure_start(setting: Setting) -> list[Row]:
    """Wall time of new processes, the best of three."""
    file = lift_file(setting.folder)
    heavy = "print([m for m in ('torch', 'wandb', 'h5py') if m in sys.modules])"
    found = _run(["-c", f"import sys, rmexp, rmexp.cli; {heavy}"]).stdout.strip()
    row = partial(Row, part="start", unit="s")
    return [
        row(
            name="python -m rmexp --help",
            figure=_best(lambda: _run(["-m", "rmexp", "--help"])),
            budget=1,
            note="without torch, wandb, h5py" if found == "[]" else f"it imports {found}",
        ),
        row(name="python -c 'import rmexp'", figure=_best(lambda: _run(["-c", "import rmexp"]))),
        row(
            name="first step of debug=smoke rollout=none",
            figure=min(_first_step(file) for _ in range(BEST_OF)),
            budget=6,
            note="upper bound: until the first epoch of 5 steps is logged",
        ),
    ]


def measure_memory(setting: Setting) -> list[Row]:
    """Resident growth of a process that loads the images and takes batches of them."""
    file = image_file(setting.folder, setting.image_mb)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            grown = pool.submit(_resident_growth, file, lift_file(setting.folder)).result()
        except BrokenProcessPool as error:
            raise Unmeasured("memory: the process that loads the images died") from error
    size = file.stat().st_size
    return [
        Row(part="memory", name="image file", figure=size / 2**20, unit="MiB"),
        Row(
            part="memory",
            name="resident growth to file size",
            figure=grown / size,
            unit="x",
            budget=1.1,
            note=f"{BATCHES} batches of 16 x 10 frames included",
        ),
    ]


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=_environment()
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        command = " ".join(["python", *arguments])
        raise Unmeasured(f"start: {command} ended with exit code {done.returncode}: {said}")
    return done


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def _best(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    for _ in range(BEST_OF):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _first_step(file: Path) -> float:
    """Seconds from the start of the process to the first line of its metrics."""
    with tempfile.TemporaryDirectory(prefix="rmexp-bench-") as folder:
        run_dir, output = Path(folder) / "run", Path(folder) / "output"
        words = ["debug=smoke", "rollout=none", "dataset=hdf5", f"dataset.path='{file}'"]
        words.append(f"hydra.run.dir='{run_dir}'")
        metrics = run_dir / "metrics.jsonl"
        with output.open("w") as said:
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "rmexp", *words],
                stdout=said,
                stderr=said,
                env=_environment(),
            )
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if process.poll() is not None or time.perf_counter() - began > LIMIT_S:
                        last = (output.read_text().strip() or "it said nothing").splitlines()[-1]
                        raise Unmeasured(f"start: debug=smoke made no step: {last}")
                    time.sleep(POLL_S)
                seconds = time.perf_counter() - began
            finally:
                process.terminate()
                process.wait()
    return seconds


def _resident_growth(images: Path, warm_up: Path) -> int:
    """Bytes; the libraries and the code paths are warmed up on another file first."""
    torch.set_num_threads(1)
    _load(warm_up, list(LOW_DIM))
    before = memory_row(CPU)["memory/cpu_rss_gib"]
    kept = _load(images, [*LOW_DIM, *CAMERAS])
    after = memory_row(CPU)["memory/cpu_rss_gib"]
    del kept
    return round((after - before) * 2**30)


def _load(file: Path, obs_keys: Sequence[str]) -> object:
    """The data set, after some batches of it."""
    chosen = [
        "dataset.seq_length=10",
        "dataset.placement=ram",
        f"dataset.obs_keys=[{','.join(obs_keys)}]",
    ]
    dataset = build.dataset(configuration(file, chosen))
    loader = dataset.train_loader(batch_size=16, seed=0, keys=("obs", "actions"), device=CPU)
    for number, _ in enumerate(loader, start=1):
        if number == BATCHES:
            break
    return dataset, loader
