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
from rmexp.data.dataset import Dataset
from rmexp.data.loader import Loader
from rmexp.memory import memory_row
from rmexp.tools.bench_blocks import Row, Unmeasured
from rmexp.tools.bench_files import CAMERAS, LOW_DIM, configuration, image_file, lift_file
from rmexp.tools.bench_subject import CPU, Setting

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
            name="first step of debug=smoke",
            figure=min(_first_step(file) for _ in range(BEST_OF)),
            budget=6,
            note="rollout=none; an upper bound: until the first epoch of 5 steps is logged",
        ),
    ]


def measure_memory(setting: Setting) -> list[Row]:
    """Resident growth of a process that loads the images and takes batches of them."""
    file = image_file(setting.folder, setting.image_mb)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            loaded, used = pool.submit(_growth, file, lift_file(setting.folder)).result()
        except BrokenProcessPool as error:
            raise Unmeasured("memory: the process that loads the images died") from error
    size = file.stat().st_size
    row = partial(Row, part="memory", unit="x file")
    return [
        row(name="resident after loading", figure=loaded / size, budget=1.1),
        row(
            name="  and with batches",
            figure=used / size,
            note=f"their buffers are the same for any file; the file has {size / 1e6:.0f} MB",
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


def _growth(images: Path, warm_up: Path) -> tuple[int, int]:
    """Bytes after loading and after batches; what does not depend on the file comes first."""
    torch.set_num_threads(1)
    _take(_load(warm_up, list(LOW_DIM))[1])
    before = _resident_bytes()
    kept = _load(images, [*LOW_DIM, *CAMERAS])
    loaded = _resident_bytes()
    _take(kept[1])
    return loaded - before, _resident_bytes() - before


def _resident_bytes() -> int:
    return round(memory_row(CPU)["memory/cpu_rss_gib"] * 2**30)


def _load(file: Path, obs_keys: Sequence[str]) -> tuple[Dataset, Loader]:
    chosen = [
        "dataset.seq_length=10",
        "dataset.placement=ram",
        f"dataset.obs_keys=[{','.join(obs_keys)}]",
    ]
    dataset = build.dataset(configuration(file, chosen))
    loader = dataset.train_loader(batch_size=16, seed=0, keys=("obs", "actions"), device=CPU)
    return dataset, loader


def _take(loader: Loader) -> None:
    for number, _ in enumerate(loader, start=1):
        if number == BATCHES:
            break
