"""Recorded draws come back in order, or the difference is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rmexp.algo.base import Algo
from rmexp.compat.robomimic import ReplayError, algo_from_robomimic, replay_draws
from tests.compat.reference_case import LIFT


@pytest.fixture
def algo(golden: Path) -> Algo:
    config = json.loads((golden / "algo_bc.json").read_text())["algo_config"]
    return algo_from_robomimic("bc", config, LIFT, 7)


def test_draws_are_handed_out_in_order(algo: Algo) -> None:
    rng = np.random.default_rng(0)
    normal, uniform = rng.normal(size=(5, 3)), rng.uniform(-2.0, 2.0, (5, 2))
    records = [
        ("000_normal_", normal),
        ("uniform_", uniform),
        ("rand", np.array([0.0, 0.5])),
        ("randint", np.array([4, 6])),
        ("exponential_", np.array([1.5])),
        ("randn", np.arange(42.0).reshape(14, 3)),
        ("004_multinomial", np.array([[1], [0], [1]])),
        ("multinomial", np.array([0, 1])),
        ("normal", np.array([[[1.0], [2.0]], [[3.0], [4.0]]])),
        ("multinomial", np.array([[1]])),
        ("normal_", np.array([[0.5]])),
        ("normal", np.array([[7.0]])),
        ("randn", np.array([[3.0]])),
    ]
    own = dict(algo.draws)
    with replay_draws(algo, records):
        assert torch.equal(algo.draws["train"].randn((5, 3)), torch.tensor(normal).float())
        valid = algo.draws["valid"].uniform(-2.0, 2.0, (5, 2))
        assert torch.equal(valid, torch.tensor(uniform).float())
        assert algo.draws["act"].uniform(2.0, 4.0, (2,)).tolist() == [2.0, 3.0]
        assert algo.draws["train"].randint(4, 7, (2,)).tolist() == [4, 6]
        assert algo.draws["train"].exponential((1,)).tolist() == [1.5]
        assert algo.draws["train"].randn((2, 7, 3))[1, 0].tolist() == [21.0, 22.0, 23.0]
        train, halves = algo.draws["train"], torch.full((2, 2), 0.5)
        means = torch.tensor([[[1.0], [5.0]]])
        assert train.categorical(torch.full((3, 2), 0.5)).tolist() == [1, 0, 1]
        assert train.mixture(halves, torch.zeros(2, 2, 1), 1.0).tolist() == [[1.0], [4.0]]
        assert train.mixture(halves[:1], means, 2.0 * means).tolist() == [[10.0]]
        assert train.normal(means[0, :1], 9.0).tolist() == [[7.0]]  # as drawn, mean and width in it
        assert train.normal(means[0, :1], 2.0).tolist() == [[7.0]]  # 1 + 2 x 3
    assert algo.draws == own


@pytest.mark.parametrize(
    ("record", "ask", "message"),
    [
        (("randn", np.zeros((5, 3))), lambda d: d.randn((5, 4)), r"\(5, 4\), recorded is randn"),
        (("randn", np.zeros((5, 3))), lambda d: d.randn((3, 5)), r"\(3, 5\), recorded is randn"),
        (("randn", np.zeros((5, 3))), lambda d: d.rand((5, 3)), "uniform numbers"),
        (("multinomial", np.zeros((5, 1))), lambda d: d.rand((5, 1)), "recorded is multinomial"),
        (("uniform_", np.full(2, 3.0)), lambda d: d.uniform(-1, 1, (2,)), r"not within \[-1, 1\]"),
        (("randn", np.zeros(5)), lambda d: d.categorical(torch.ones(5, 1)), "asks for one of 1"),
        (
            ("multinomial", np.zeros((4, 1))),
            lambda d: d.categorical(torch.full((5, 2), 0.5)),
            r"\(5,\), recorded is multinomial \(4, 1\)",
        ),
        (("randint", np.full(2, 7)), lambda d: d.randint(0, 7, (2,)), r"not within \[0, 7\)"),
        (("randn", np.zeros(2)), lambda d: torch.zeros(()), r"0 of 1 .* left are randn \(2,\)"),
    ],
)
def test_differences_are_named(
    algo: Algo, record: tuple[str, Any], ask: Callable[[Any], Tensor], message: str
) -> None:
    own = dict(algo.draws)
    with pytest.raises(ReplayError, match=message), replay_draws(algo, [record]):
        ask(algo.draws["train"])
    assert algo.draws == own


def test_nothing_is_drawn_beyond_the_records(algo: Algo) -> None:
    with pytest.raises(ReplayError, match="after all 0 records"), replay_draws(algo, []):
        algo.draws["train"].randn((1,))
