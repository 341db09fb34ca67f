"""Opens one file after another in a process of its own, whose memory is bounded.

Reads numbers of mutants, or paths, from stdin; answers each with JSON lines: what was done to it,
then how it ended. So a crash or a hang of the HDF5 library is one finding of the process that
started this one.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from rmexp.data.dataset import Dataset
from rmexp.errors import RmexpError
from tests.data.demo_files import SETTINGS
from tests.faults.hdf5_mutants import mutant

MEMORY = 1 << 30
"""What opening a file of some kilobytes may ask for, beyond what the process starts with."""


def answer(**content: Any) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def open_and_read(path: Path, **settings: Any) -> dict[str, Any]:
    """Everything that training does with a file; then the comparison with h5py."""
    cache: dict[str, Any] = {"cache_dir": str(path.parent / "cache")}
    try:
        dataset = Dataset(path=str(path), **(SETTINGS | cache | settings))
        loader = dataset.train_loader(batch_size=3, seed=0, keys=None, device="cpu")
        batches = list(loader)
    except RmexpError as error:
        return {"ended": "refused", "said": str(error)}
    except BaseException:
        return {"ended": "traceback", "said": traceback.format_exc()}
    answer(loaded=True)
    try:
        return {"ended": "loaded", "said": difference(path, dataset, batches)}
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        return {"ended": "loaded", "said": f"h5py does not read it: {error}"}


def difference(path: Path, dataset: Dataset, batches: list[dict[str, Any]]) -> str:
    """What is not as h5py reads it; empty if all of it is."""
    table = dataset._inventory.table
    rows = np.flatnonzero(np.repeat(dataset._inventory.is_train, table.lengths))
    with h5py.File(path) as file, np.errstate(over="ignore"):
        for key in ("actions", *(f"obs/{name}" for name in dataset.obs_shapes)):
            arrays = [np.asarray(file[f"data/{demo}/{key}"]) for demo in table.demos]
            if [len(array) for array in arrays] != table.lengths.tolist():
                return f"{key}: {[len(array) for array in arrays]} frames, not {table.lengths}"
            frames = np.concatenate([array.reshape(len(array), -1) for array in arrays])[rows]
            for batch in batches:
                found = batch["actions"] if key == "actions" else batch["obs"][key[4:]]
                same = torch.from_numpy(frames[batch["index"].numpy()].astype(np.float32))
                if not torch.equal(found.flatten(1).float(), same):
                    return f"{key} is not what h5py reads"
    return ""


def settings_of(number: int) -> dict[str, Any]:
    """With or without images, in memory or mapped."""
    keys = ["object", "cam"] if number % 2 and number % 3 else None
    return {"obs_keys": keys, "placement": "mmap" if number % 5 else "ram"}


def peak_bytes() -> int:
    """Largest resident memory since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) * 1024


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        for line in map(str.strip, sys.stdin):
            path, kind, settings = Path(line), "attack", dict[str, Any]()
            if line.isdigit():
                path, settings = Path(folder) / f"{line}.hdf5", settings_of(int(line))
                kind, data = mutant(int(line))
                path.write_bytes(data)
            answer(began=kind)
            peak_bytes()
            before, start = peak_bytes(), time.process_time()
            result = open_and_read(path, **settings)
            seconds = time.process_time() - start
            answer(**result, seconds=seconds, bytes=peak_bytes() - before)
            if line.isdigit():
                path.unlink()


if __name__ == "__main__":
    main()
