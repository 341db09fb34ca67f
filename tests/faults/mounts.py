"""File systems of a test's own: a process sees a small or read-only one, and nobody else does.

They live as long as their keeper, a process with mounts of its own; another one enters by its
number, and everybody can look at the files below `/proc/<number>/root`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_KEEPER = """
import signal, subprocess, sys
for command in sys.argv[1:]:
    subprocess.run(["sh", "-c", command], check=True)
print("ready", flush=True)
signal.pause()
"""


@contextmanager
def mounted(*commands: str) -> Generator[int]:
    """The number of a process in whose view of the file systems these commands were run.

    Skips the test where no such view may be made.
    """
    as_root = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, "--mount", "--propagation=private", sys.executable, "-c"]
    try:
        keeper = subprocess.Popen(
            [*command, _KEEPER, *commands],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` here: no file systems of our own")
    with keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        try:
            if keeper.stdout.readline() != "ready\n":
                pytest.skip(f"no file systems of our own here: {keeper.stderr.read().strip()}")
            yield keeper.pid
        finally:
            keeper.send_signal(signal.SIGKILL)


def enter(keeper: int) -> None:
    """See the file systems as the keeper does, from now on and in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = ("mnt",) if os.getuid() == 0 else ("user", "mnt")
    handles = [os.open(f"/proc/{keeper}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for handle in handles:
        if libc.setns(handle, 0) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the mounts of {keeper}")


def seen_by(keeper: int, path: Path) -> Path:
    return Path(f"/proc/{keeper}/root{path}")
