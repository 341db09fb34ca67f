from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import rmexp
from rmexp.interrupt import SIGNALS, Interrupt, Interrupted
from rmexp.metrics import EpochProgress, batch_size_of
from rmexp.seeding import derive, preserved_random_state, seed_global


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_purposes_and_seeds_have_their_own_streams() -> None:
    seeds = {derive(s, p) for s in range(20) for p in ("data", "train", "act")}
    assert len(seeds) == 60
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive(3, "data") == derive(3, "data")


def test_global_generators_repeat() -> None:
    seed_global(4)
    first = draw()
    seed_global(4)
    assert draw() == first
    seed_global(5)
    assert draw() != first


def test_nothing_is_noticed_outside() -> None:
    seed_global(4)
    first = [draw() for _ in range(2)]
    seed_global(4)
    found = [draw()]
    with preserved_random_state():
        seed_global(99)
        draw()
    assert [*found, draw()] == first


def test_batch_size_of_nested_batches() -> None:
    assert batch_size_of({"obs": {"a": torch.zeros(5, 3)}, "actions": torch.zeros(5)}) == 5
    assert batch_size_of(torch.zeros(7, 2)) == 7
    assert batch_size_of({"text": "x"}) == 1


def test_averages_after_a_restart_are_equal_bit_for_bit() -> None:
    whole, first = EpochProgress(), EpochProgress()
    values = torch.rand(9)
    for i in range(9):
        whole.add({"loss": values[i]}, 4)
    for i in range(5):
        first.add({"loss": values[i]}, 4)
    second = EpochProgress()
    second.load_state_dict(first.state_dict())
    for i in range(5, 9):
        second.add({"loss": values[i]}, 4)
    assert second.averages() == whole.averages()
    assert (second.steps, second.samples) == (9, 36)


def test_a_signal_waits_for_a_safe_place() -> None:
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGUSR1)
    with interrupt.listening():
        interrupt.check()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stop:
            interrupt.check()
        assert stop.value.signum == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.SIGINT in SIGNALS


PACKAGE = Path(rmexp.__file__).parent
UNSEEDED = {
    r"^\s*(import|from) random\b": {"seeding.py"},
    r"^\s*(import|from) (secrets|uuid)\b": {"loggers/wandb.py"},  # the name of a W&B run
    r"\bnp\.random\.(?!default_rng|Generator)": {"seeding.py"},
    r"(?<![\w.])hash\(": set[str](),
    r"\bos\.(listdir|scandir|urandom)\b": set[str](),
    r"default_rng\(\)|torch\.seed\(\)|SystemRandom": set[str](),
    r"^(?!.*(sorted|any)\().*\.(iterdir|glob|rglob)\(": set[str](),
}
"""What differs from start to start, and the files that may use it."""


@pytest.mark.parametrize("pattern", UNSEEDED)
def test_nothing_draws_from_what_the_seed_does_not_decide(pattern: str) -> None:
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if re.search(pattern, file.read_text(), re.MULTILINE)
    }
    assert users <= UNSEEDED[pattern], users
