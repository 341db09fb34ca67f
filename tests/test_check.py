from __future__ import annotations

from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from rmexp.check import check
from rmexp.errors import ConfigError


class Part:
    def __init__(self, *, size: int) -> None:
        self.size = size


class Whole:
    def __init__(
        self,
        *,
        lr: float,
        widths: list[int],
        mode: Literal["slow", "fast"],
        part: Part,
        clip: float | None,
        live: object,
    ) -> None: ...


def node(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "_target_": f"{__name__}.Whole",
        "lr": 1e-3,
        "widths": [3, 5],
        "mode": "slow",
        "part": {"_target_": f"{__name__}.Part", "size": 7},
        "clip": None,
    }
    return {k: v for k, v in {**good, **changes}.items() if v != "ABSENT"}


def problems(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(OmegaConf.create({"algo": node(**changes)}), {"algo": ["live"]})
    return str(caught.value)


def test_a_good_node_passes() -> None:
    check(OmegaConf.create({"algo": node()}), {"algo": ["live"]})
    check(OmegaConf.create({"algo": node(lr=1, clip=2.5)}), {"algo": ["live"]})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lrr": 1.0}, "algo.lrr: .* has no parameter 'lrr'; did you mean 'lr'?"),
        ({"lr": "fast"}, "algo.lr: 'fast' (str) is not a number"),
        ({"lr": True}, "algo.lr: True (bool) is not a number"),
        ({"lr": None}, "algo.lr: None (NoneType) is not a number"),
        ({"widths": [3, "x"]}, "algo.widths: [3, 'x'] (list) is not a list of an integer"),
        ({"widths": 3}, "algo.widths: 3 (int) is not a list of an integer; a list is written [3]"),
        (
            {"mode": "fst"},
            "algo.mode: 'fst' (str) is not one of 'slow', 'fast'; did you mean 'fast'?",
        ),
        ({"mode": "ABSENT"}, "algo.mode: .* needs this parameter; say algo.mode=..."),
        ({"part": 3}, "algo.part: 3 (int) is not a node with a _target_ that makes Part"),
        ({"part": {"_target_": f"{__name__}.Part", "size": 1.5}}, "algo.part.size: 1.5 (float)"),
        ({"part": {"_target_": f"{__name__}.Prt", "size": 1}}, "algo.part._target_: cannot import"),
        ({"clip": "no"}, "algo.clip: 'no' (str) is not a number or null"),
        ({"live": 3}, "algo.live: this parameter is supplied by the run"),
        ({"lr": "???"}, "algo.lr: a value is required; say algo.lr=..."),
    ],
)
def test_each_fault_is_named(changes: dict[str, Any], expected: str) -> None:
    text = problems(**changes)
    before, _, after = expected.partition(".* ")
    assert before in text
    assert after in text


def test_all_faults_are_reported_at_once() -> None:
    text = problems(lrr=1, mode="fst", widths=3)
    assert text.startswith("the configuration has 3 problems:")
    assert text.count("\n") == 3


def test_lists_of_nodes_are_walked() -> None:
    config = OmegaConf.create({"parts": [{"_target_": f"{__name__}.Part", "sise": 1}]})
    with pytest.raises(ConfigError, match=r"parts\[0\]\.sise.*did you mean 'size'"):
        check(config, {})
