from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from rmexp.algo.optim import Cosine, Linear, MultiStep, Optimizer, Schedule
from rmexp.errors import ConfigError


def optimizer(
    net: nn.Module, schedule: Schedule, total_steps: int = 20, **changes: object
) -> Optimizer:
    values: dict[str, object] = {
        "name": "adam",
        "lr": 0.1,
        "l2_regularization": 0.0,
        "max_grad_norm": None,
    }
    values |= changes
    return Optimizer(net.parameters(), schedule=schedule, total_steps=total_steps, **values)  # type: ignore[arg-type]


def constant() -> MultiStep:
    return MultiStep(epochs=[], decay_factor=1.0)


def test_multistep_counts_epochs() -> None:
    ours = optimizer(nn.Linear(2, 1), MultiStep(epochs=[2, 4], decay_factor=0.1))
    rates: list[float] = []
    for epoch in range(1, 7):
        rates.append(ours.lr)
        for _ in range(5):
            ours.after_step()
        assert ours.lr == rates[-1]
        ours.after_epoch(epoch)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_linear_equals_torch() -> None:
    net = nn.Linear(2, 1)
    theirs = torch.optim.Adam(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(theirs, 1.0, 0.1, total_iters=4)
    ours = optimizer(net, Linear(num_epochs=4, decay_factor=0.1))
    for epoch in range(1, 8):
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"])
        theirs.step()
        scheduler.step()
        ours.after_epoch(epoch)


def test_cosine_counts_steps_and_ends_at_zero_with_the_run() -> None:
    ours = optimizer(nn.Linear(2, 1), Cosine(warmup_steps=4, num_cycles=0.5), total_steps=20)
    rates: list[float] = []
    for _ in range(20):
        rates.append(ours.lr)
        ours.after_step()
    assert rates[:5] == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert rates[12] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert ours.lr == 0.0
    assert all(a >= b for a, b in pairwise(rates[4:]))


def test_the_norm_is_the_one_before_clipping() -> None:
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)
    ours = optimizer(net, constant(), max_grad_norm=1.0)
    norm = ours.step((net(torch.tensor([3.0, 0.0, 4.0])) * 2).sum())
    assert float(norm) == pytest.approx(10.0)
    assert net.weight.grad is not None
    assert float(net.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_l2_is_torchs(name: str) -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    b.load_state_dict(a.state_dict())
    ours = optimizer(a, constant(), name=name, l2_regularization=0.1)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    theirs = kind(b.parameters(), lr=0.1, weight_decay=0.1)
    x = torch.randn(5, 3)
    for _ in range(3):
        ours.step(a(x).square().mean())
        theirs.zero_grad()
        b(x).square().mean().backward()
        theirs.step()
    torch.testing.assert_close(a.weight, b.weight)


def test_counters_survive() -> None:
    net = nn.Linear(2, 1)
    ours = optimizer(net, Cosine(warmup_steps=4, num_cycles=0.5))
    for _ in range(7):
        ours.after_step()
    again = optimizer(net, Cosine(warmup_steps=4, num_cycles=0.5))
    again.load_state_dict(ours.state_dict())
    assert (again.lr, again.steps) == (ours.lr, 7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optimizer(nn.Linear(2, 1), constant(), lr=-1), "lr: -1 must be at least 0"),
        (lambda: optimizer(nn.Linear(2, 1), constant(), lr=math.nan), "lr: nan must be"),
        (
            lambda: optimizer(nn.Linear(2, 1), constant(), l2_regularization=-0.1),
            "l2_regularization: -0.1 must be at least 0",
        ),
        (
            lambda: optimizer(nn.Linear(2, 1), constant(), max_grad_norm=0),
            "max_grad_norm: 0 must be above 0, or null",
        ),
        (
            lambda: Linear(num_epochs=0, decay_factor=0.1),
            "lr_schedule.num_epochs: 0 must be at least 1",
        ),
        (
            lambda: Linear(num_epochs=1, decay_factor=-0.1),
            "lr_schedule.decay_factor: -0.1 must be at least 0",
        ),
        (
            lambda: MultiStep(epochs=[], decay_factor=math.inf),
            "lr_schedule.decay_factor: inf must be at least 0 and finite",
        ),
        (
            lambda: Cosine(warmup_steps=-1, num_cycles=0.5),
            "lr_schedule.warmup_steps: -1 must be at least 0",
        ),
        (
            lambda: Cosine(warmup_steps=0, num_cycles=-0.5),
            "lr_schedule.num_cycles: -0.5 must be at least 0",
        ),
    ],
)
def test_numbers_out_of_range_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(words)
