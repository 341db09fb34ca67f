"""The benchmark's figures, budgets and report; its speed itself is not judged here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rmexp.arguments import parse, run_command
from rmexp.errors import ConfigError
from rmexp.tools import bench_algorithms
from rmexp.tools.bench import PARTS, PROG, BenchArguments, bench
from rmexp.tools.bench_blocks import Rounds, Row
from rmexp.tools.bench_files import LOW_DIM, image_file, rewarded_file
from rmexp.tools.bench_subject import Subject

ROW_KEYS = {"part", "name", "figure", "unit", "budget", "at_least", "note", "over"}


def run(out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    argv = [*words, "steps=2", "rounds=2", "image_mb=3", f"out={out}"]
    code = run_command(BenchArguments, bench, prog=PROG, argv=argv)
    return code, json.loads(out.read_text())


def test_report_holds_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(tmp_path / "bench.json", "only=[loop,reference,data]")
    assert code == 0
    assert all(set(row) == ROW_KEYS for row in report["rows"])
    assert {row["part"] for row in report["rows"]} == {"loop", "data"}
    assert list(report["skipped"]) == ["reference"]
    assert report["failed"] == {}
    figures = {row["name"]: row["figure"] for row in report["rows"]}
    assert figures["run_epoch"] > 1
    assert figures["2 cameras, 16 x 10 frames"] > 1
    printed = capsys.readouterr().out
    assert "overhead" in printed
    assert "reference: skipped" in printed


def test_algorithms_are_measured_without_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(bench_algorithms.PEERS) == ["td3_bc", "iql", "bc_rnn_gmm"]
    monkeypatch.setattr(bench_algorithms, "PEERS", {"iql": bench_algorithms.PEERS["iql"]})
    code, report = run(tmp_path / "bench.json", "only=[algorithms]")
    assert code == 0
    figures = {row["name"]: row["figure"] for row in report["rows"]}
    assert list(figures) == ["iql, batch 100", "  update alone"]
    assert min(figures.values()) > 1


def test_the_reference_is_given_our_sizes(tmp_path: Path) -> None:
    subject = Subject(rewarded_file(tmp_path), ["algo=iql", "algo.num_critics=3"])
    peer = bench_algorithms.PEERS["iql"]
    job = subject.job("all", algo=peer.algo, options=peer.options)
    assert job["options"] == {
        "actor.layer_dims": [300, 400],
        "critic.layer_dims": [300, 400],
        "critic.ensemble.n": 3,
    }
    assert (job["dataset_keys"], job["next_obs"]) == (["actions", "rewards", "dones"], True)


def test_ratios_are_those_of_the_loop_and_of_the_update() -> None:
    seconds = {"loop": 1.0, "update": 0.5, "loop, reference": 3.0, "update, reference": 0.75}
    rounds = Rounds(lambda: {name: lambda s=s: s for name, s in seconds.items()}, 2)
    rows = bench_algorithms._rows("iql", bench_algorithms.PEERS["iql"], 20, rounds)
    assert [(row.figure, row.budget) for row in rows] == [
        (20.0, None),
        (3.0, 1.5),
        (40.0, None),
        (1.5, None),
    ]


@pytest.mark.slow
def test_start_and_memory_are_measured_in_other_processes(tmp_path: Path) -> None:
    code, report = run(tmp_path / "bench.json", "only=[start,memory]")
    assert code == 0
    figures = {row["name"]: row["figure"] for row in report["rows"]}
    assert 0 < figures["python -c 'import rmexp'"] < figures["first step of debug=smoke"]
    assert figures["resident after loading"] > 0.9


def test_what_cannot_be_measured_is_said_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # This interpreter has no robomimic.
    words = ("only=[reference]", f"reference={sys.executable}")
    code, report = run(tmp_path / "bench.json", *words)
    assert code == 1
    assert "robomimic" in report["failed"]["reference"]
    assert "could be measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("only=[loop,stat]", "did you mean 'start'"),
        ("steps=0", "steps=0 is too small"),
        ("rounds=-1", "rounds=-1 is too small"),
    ],
)
def test_arguments_are_checked(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(BenchArguments, [word], prog=PROG)


def test_parts_are_all_of_them_by_default() -> None:
    assert tuple(parse(BenchArguments, [], prog=PROG).only) == PARTS


def test_a_ratio_is_taken_within_a_round() -> None:
    seconds = {"a": iter([2.0, 30.0, 4.0]), "b": iter([1.0, 10.0, 4.0])}
    ran: list[str] = []

    def block(name: str) -> float:
        ran.append(name)
        return next(seconds[name])

    rounds = Rounds(lambda: {"a": lambda: block("a"), "b": lambda: block("b")}, 3)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert rounds.ratio("a", "b") == 2.0
    assert rounds.median("b") == 4.0


@pytest.mark.parametrize(
    ("figure", "budget", "at_least", "over"),
    [
        (3.1, 3, False, True),
        (3.0, 3, False, False),
        (1.5, 1.6, True, True),
        (1.6, 1.6, True, False),
    ],
)
def test_a_budget_is_a_limit(figure: float, budget: float, at_least: bool, over: bool) -> None:
    row = Row(part="p", name="n", figure=figure, unit="x", budget=budget, at_least=at_least)
    assert row.is_over is over


def test_image_file_has_the_size_asked_for(tmp_path: Path) -> None:
    path = image_file(tmp_path, 5)
    assert path.stat().st_size == pytest.approx(5e6, rel=0.3)
    assert sum(LOW_DIM.values()) == 19
