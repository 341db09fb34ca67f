"""What the picture shows, read back from the SVG itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rmexp.arguments import run_command
from rmexp.errors import CheckpointError, ConfigError
from rmexp.rollout.statistics import wilson_interval
from rmexp.tools.axes import Axis, axis_of, linear_axis, log_axis
from rmexp.tools.chart import COLOURS, PLOT_HEIGHT
from rmexp.tools.plot import PROG, PlotArguments, find_runs, plot, run_names, thin

SVG = "{http://www.w3.org/2000/svg}"
Row = Mapping[str, float | str]


def rates(prefix: str, successes: int, n: int = 50) -> dict[str, float]:
    low, high = wilson_interval(successes, n)
    values = {"": successes / n, "_low": low, "_high": high}
    named = {f"{prefix}/success_rate{end}": value for end, value in values.items()}
    return named | {f"{prefix}/num_episodes": float(n)}


def training(num_epochs: int = 4, rollout_every: int = 0) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for epoch in range(1, num_epochs + 1):
        row: dict[str, float | str] = {"epoch": epoch, "global_step": 7 * epoch}
        row |= {"train/loss": 0.4 / epoch, "valid/loss": 0.5 / epoch}
        if rollout_every and epoch % rollout_every == 0:
            row |= rates("rollout/Lift", 10 * epoch // num_epochs * 4)
        rows.append(row)
    return rows


def run_dir(path: Path, rows: Sequence[Row], name: str = "bc_lift", overrides: str = "[]") -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"name: {name}\n")
    (path / "overrides.yaml").write_text(overrides)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def drawn(out: Path, *runs: Path) -> ElementTree.Element:
    plot(PlotArguments(runs=[str(run) for run in runs], out=str(out)))
    return ElementTree.fromstring(out.read_text())


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def paths(svg: ElementTree.Element, colour: str, start: str) -> list[str]:
    """Path data of one colour's lines and bars ("stroke") or bands and diamonds ("fill")."""
    return [p.attrib["d"] for p in svg.iter(f"{SVG}path") if p.get(start) == colour]


def heights(path: str, top: float) -> list[float]:
    """Where the absolute points of a path stand: 0 at the bottom of the plot, 1 at its top."""
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", path)
    return [round(1 - (float(y) - top) / PLOT_HEIGHT, 3) for _, y in points]


def tick_height(svg: ElementTree.Element, label: str) -> float:
    (y,) = (float(e.attrib["y"]) for e in svg.iter(f"{SVG}text") if e.text == label)
    return y - 4  # a number stands a little below its line


def test_losses_rates_and_the_final_evaluation_stand_where_they_belong(tmp_path: Path) -> None:
    final = {"epoch": 4, "global_step": 28, **rates("rollout/final", 45)}
    final["rollout/final/num_episodes"] = 50.0
    rows = [*training(4, rollout_every=2), final]
    svg = drawn(tmp_path / "curve.svg", run_dir(tmp_path / "run", rows))

    top = tick_height(svg, "100 %")
    assert tick_height(svg, "0 %") - top == PLOT_HEIGHT
    train, valid = paths(svg, COLOURS[0], "stroke"), paths(svg, COLOURS[1], "stroke")
    assert heights(valid[1], top) == [1.0, 0.375, 0.167, 0.062]  # the axis: 0.1 to 0.5
    assert heights(train[1], top) == [0.75, 0.25, 0.083, 0.0]

    (low, high), (later_low, later_high) = wilson_interval(20, 50), wilson_interval(40, 50)
    band, diamond = paths(svg, COLOURS[0], "fill")
    assert heights(band, top) == pytest.approx([high, later_high, later_low, low], abs=1e-3)
    assert heights(diamond, top) == pytest.approx([0.9 + 5 / PLOT_HEIGHT], abs=1e-3)
    dots = [1 - (float(dot.attrib["cy"]) - top) / PLOT_HEIGHT for dot in svg.iter(f"{SVG}circle")]
    assert dots == pytest.approx([0.4, 0.8], abs=1e-3)

    assert "bc_lift" in texts(svg)
    assert "Success rate in Lift, n = 50" in texts(svg)
    assert "final success 90 % [79, 96], 50 fresh episodes" in texts(svg)


def test_without_rollouts_there_is_one_panel(tmp_path: Path) -> None:
    svg = drawn(tmp_path / "curve.svg", run_dir(tmp_path / "run", training()))
    assert texts(svg).count("epoch") == 1
    assert not [text for text in texts(svg) if "final" in text or "Success" in text]


def test_runs_have_names_and_colours_of_their_own(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for name, seed in (("bc_lift", 10), ("bc_lift", 9), ("gmm", 9)):
        words = f"[algo=bc, seed={seed}, 'hydra.run.dir={tmp_path}']"
        run_dir(sweep / f"{name},seed={seed}", training(3, 1), name, words)
    svg = drawn(tmp_path / "curve.svg", sweep)
    assert texts(svg)[:3] == ["bc_lift seed=9", "bc_lift seed=10", "gmm"]
    for colour in COLOURS[:3]:
        lines = [p for p in svg.iter(f"{SVG}path") if p.get("stroke") == colour]
        assert len(lines) == 3
        assert ["stroke-dasharray" in line.attrib for line in lines] == [False, True, False]
        assert len(paths(svg, colour, "fill")) == 1
    assert not paths(svg, COLOURS[3], "stroke")
    assert str(tmp_path) not in (tmp_path / "curve.svg").read_text()


def test_runs_that_differ_in_nothing_are_numbered(tmp_path: Path) -> None:
    directories = [run_dir(tmp_path / letter, training()) for letter in "ab"]
    assert run_names(directories) == ["bc_lift (1)", "bc_lift (2)"]
    (tmp_path / "a" / "config.yaml").unlink()
    assert run_names(directories) == ["a", "bc_lift"]


def test_a_run_named_twice_is_drawn_once(tmp_path: Path) -> None:
    run = run_dir(tmp_path / "sweep" / "a", training())
    assert find_runs([tmp_path / "sweep", run, tmp_path / "sweep" / ".." / "sweep"]) == [run]


def test_what_is_not_finite_breaks_the_line(tmp_path: Path) -> None:
    rows = training(5)
    rows[2]["train/loss"] = "nan"
    rows[4]["valid/loss"] = "inf"
    svg = drawn(tmp_path / "curve.svg", run_dir(tmp_path / "run", rows))
    train, valid = (paths(svg, colour, "stroke")[1] for colour in COLOURS[:2])
    assert re.sub(r"[^ML]", "", train) == "MLML"
    assert re.sub(r"[^ML]", "", valid) == "MLLL"
    assert "nan" not in (tmp_path / "curve.svg").read_text()


def test_text_is_escaped(tmp_path: Path) -> None:
    svg = drawn(tmp_path / "curve.svg", run_dir(tmp_path / "run", training(), "'a<b & c'"))
    assert "a<b & c" in texts(svg)


def test_a_single_epoch_is_visible(tmp_path: Path) -> None:
    svg = drawn(tmp_path / "curve.svg", run_dir(tmp_path / "run", training(1, 1)))
    assert len(list(svg.iter(f"{SVG}circle"))) == 3


def test_long_runs_make_a_small_file(tmp_path: Path) -> None:
    rows = training(2000, 50)
    runs = [run_dir(tmp_path / str(i), rows, f"run{i}") for i in range(len(COLOURS))]
    drawn(tmp_path / "curve.svg", *runs)
    assert (tmp_path / "curve.svg").stat().st_size < 60_000


def test_thinning_keeps_the_peaks() -> None:
    rows = [(float(i), math.sin(i)) for i in range(1000)]
    rows[137], rows[731] = (137.0, 9.0), (731.0, -9.0)
    kept = thin(rows, 50)
    assert 40 <= len(kept) <= 50
    assert kept == sorted(kept)
    assert {rows[137], rows[731]} < set(kept) < set(rows)
    assert thin(rows, 1000) == rows
    assert [x for x, _ in thin([(float(i), math.nan) for i in range(10)], 4)] == [0.0, 5.0]


@pytest.mark.parametrize(
    ("axis", "low", "high", "labels"),
    [
        (linear_axis(0.113, 0.302), 0.1, 0.35, ["0.10", "0.15", "0.20", "0.25", "0.30", "0.35"]),
        (linear_axis(-9.3, 1.2), -10, 5, ["\N{MINUS SIGN}10", "\N{MINUS SIGN}5", "0", "5"]),
        (linear_axis(3.0, 3.0), 2.6, 3.4, ["2.6", "2.8", "3.0", "3.2", "3.4"]),
        (linear_axis(0, 47, is_tight=True, whole=True), 0, 47, ["0", "10", "20", "30", "40"]),
        (linear_axis(0, 2, is_tight=True, whole=True), 0, 2, ["0", "1", "2"]),
        (linear_axis(0, 3e-5), 0, 3e-5, ["0", "10⁻⁵", "2·10⁻⁵", "3·10⁻⁵"]),
        (log_axis(0.003, 0.09), 0.002, 0.1, ["0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]),
        (log_axis(2e-6, 0.5), 1e-6, 1, ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1"]),
        (log_axis(1e-9, 70), 1e-9, 1e3, ["10⁻⁹", "10⁻⁷", "10⁻⁵", "0.001", "0.1", "10", "1000"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, low: float, high: float, labels: list[str]) -> None:
    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert [label for _, label in axis.ticks] == labels
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 1


def test_only_positive_values_of_many_sizes_are_logarithmic() -> None:
    assert axis_of([0.01, 0.3]).is_log
    assert not axis_of([0.1, 0.3]).is_log
    assert not axis_of([0.0, 0.3]).is_log
    assert not axis_of([-5.0, 0.3]).is_log


def test_command_takes_one_run_without_brackets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir(tmp_path / "a", training(1))
    run_dir(tmp_path / "b", [])
    out = tmp_path / "pictures" / "curve.svg"
    argv = [f"runs={tmp_path}", f"out={out}"]
    assert run_command(PlotArguments, plot, prog=PROG, argv=argv) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"{re.escape(str(out))}: 1 run, 1 epoch, \d+ kB\n", said.out)
    assert f"left out: {tmp_path / 'b'} (no epoch" in said.err


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no metrics\.jsonl in it or below; name the dir"):
        find_runs([tmp_path])
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="names no run"):
        find_runs([])


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    empty = run_dir(tmp_path / "empty", [])
    whole = [run_dir(tmp_path / str(i), training()) for i in range(len(COLOURS) + 1)]
    with pytest.raises(CheckpointError, match="wait until an epoch is over"):
        plot(PlotArguments([str(empty)]))
    with pytest.raises(ConfigError, match=r"say out=a\.svg"):
        plot(PlotArguments(str(whole[0]), out="a.png"))
    with pytest.raises(ConfigError, match="11 runs are more than colours can tell apart"):
        plot(PlotArguments([str(run) for run in whole]))
    with pytest.raises(ConfigError, match="cannot be written"):
        plot(PlotArguments(str(whole[0]), out=str(whole[0] / "config.yaml" / "a.svg")))
    (whole[0] / "config.yaml").write_text("a: [")
    with pytest.raises(CheckpointError, match=r"config\.yaml: cannot be read"):
        plot(PlotArguments(str(whole[0])))
