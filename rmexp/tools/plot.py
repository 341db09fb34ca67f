"""Training curves as one SVG for a README: `python -m rmexp.tools.plot runs=[DIR] out=curve.svg`.

Everything comes from `metrics.jsonl`, the record of a run, so a run can be drawn anywhere, also
while it is under way.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rmexp.arguments import argument, run_command
from rmexp.errors import CheckpointError, ConfigError
from rmexp.loggers.jsonl import FINAL, JsonlRecord
from rmexp.tools.axes import axis_of, linear_axis
from rmexp.tools.chart import COLOURS, QUIET, Curve, Mark, Panel, chart

PROG = "python -m rmexp.tools.plot"
RECORD = "metrics.jsonl"
SUCCESS_RATE = "success_rate"
MOST_POINTS = 3000
"""Points of all curves together: about 11 bytes each, and more than the picture has columns."""

Rows = Sequence[Mapping[str, float]]


@dataclass
class PlotArguments:
    """Draw losses and success rates over epochs, as one SVG."""

    runs: Any = argument("run directories, or directories with runs somewhere below: [A,B] or A")
    out: str = argument("file to write (svg)", default="curve.svg")

    def __post_init__(self) -> None:
        words: list[Any] = self.runs if isinstance(self.runs, list) else [self.runs]
        self.runs = [str(word) for word in words if word is not None]


@dataclass
class Run:
    """What is drawn of a run; rows are (epoch, value) or (epoch, rate, low, high)."""

    name: str
    losses: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    success: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    episodes: set[int] = field(default_factory=set)
    """How many there were behind each of the rates."""
    final: tuple[float, float, float] | None = None
    final_text: str = ""
    num_epochs: int = 0


def plot(arguments: PlotArguments) -> None:
    """Read the runs and write the picture."""
    out = Path(arguments.out).expanduser()
    if out.suffix != ".svg":
        raise ConfigError(f"out={arguments.out}: only SVG can be written; say out={out.stem}.svg")
    directories = find_runs([Path(word).expanduser() for word in arguments.runs])
    names = run_names(directories)
    runs: list[Run] = []
    for directory, name in zip(directories, names, strict=True):
        run = read_run(name, JsonlRecord.read(directory / RECORD))
        if run.losses or run.success:
            runs.append(run)
        else:
            sys.stderr.write(f"left out: {directory} (no epoch with a loss or success rate yet)\n")
    if not runs:
        raise CheckpointError(
            f"{directories[0] / RECORD}: no epoch with a loss or success rate in it; "
            "wait until an epoch is over, or name another run"
        )
    if len(runs) > len(COLOURS):
        raise ConfigError(
            f"{len(runs)} runs are more than colours can tell apart ({len(COLOURS)}); "
            f"name those to compare: runs=[{directories[0]},...]"
        )
    picture = draw(runs)
    write_out(out, picture)
    epochs = max(run.num_epochs for run in runs)
    size = len(picture.encode()) / 1000
    sys.stdout.write(
        f"{out}: {_count(len(runs), 'run')}, {_count(epochs, 'epoch')}, {size:.0f} kB\n"
    )


def write_out(out: Path, text: str) -> None:
    """Write the file that `out=` names, with its folders; raises ConfigError when it cannot be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot be written ({error.strerror}); choose another out=..."
        ) from error


def find_runs(paths: Sequence[Path], mark: str = RECORD) -> list[Path]:
    """The paths that are runs, and every run below the others, each once and numbers in order.

    A run is a directory with a file `mark` in it.

    Raises:
        CheckpointError: no run is there.
    """
    if not paths:
        raise ConfigError(f"{PROG}: runs=[] names no run; say runs=[outputs/bc_lift/<time>]")
    found: list[Path] = []
    for path in paths:
        if (path / mark).is_file():
            found.append(path)
            continue
        below = sorted((file.parent for file in path.rglob(mark)), key=_natural)
        if not below:
            reason = f"no {mark} in it or below" if path.is_dir() else "no such directory"
            raise CheckpointError(
                f"{path}: {reason}; name the directory of a run, such as outputs/bc_lift/<time>, "
                "or of a sweep"
            )
        found += below
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def run_names(directories: Sequence[Path]) -> list[str]:
    """Each run's own name; runs of one name are told apart by the overrides that they differ in."""
    names = [_saved_name(directory) for directory in directories]
    words = [_overrides(directory) for directory in directories]
    full: list[str] = []
    for name, own in zip(names, words, strict=True):
        alike = [w for n, w in zip(names, words, strict=True) if n == name]
        telling = [word for word in own if not all(word in other for other in alike)]
        full.append(" ".join([name, *telling]))
    return [
        f"{name} ({full[: i + 1].count(name)})" if full.count(name) > 1 else name
        for i, name in enumerate(full)
    ]


def read_run(name: str, rows: Rows) -> Run:
    """Losses, success rates by environment and the last final evaluation of a record."""
    run = Run(name, num_epochs=int(max((row["epoch"] for row in rows), default=0)))
    for split in ("train", "valid"):
        points = [(row["epoch"], row[f"{split}/loss"]) for row in rows if f"{split}/loss" in row]
        if points:
            run.losses[split] = points
    for row in rows:
        for key in row:
            if not key.startswith("rollout/") or not key.endswith(f"/{SUCCESS_RATE}"):
                continue
            place = key.removesuffix(SUCCESS_RATE)
            names = (key, f"{key}_low", f"{key}_high", f"{place}num_episodes")
            if not all(name in row for name in names):
                continue  # a rate alone says nothing
            rate, low, high, count = (row[name] for name in names)
            if place != FINAL:
                env = place.removeprefix("rollout/").removesuffix("/")
                run.success.setdefault(env, []).append((row["epoch"], rate, low, high))
                run.episodes.add(int(count))
                continue
            run.final = (rate, low, high)
            run.final_text = (
                f"final success {100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}], "
                f"{count:.0f} fresh episodes"
            )
    return run


def draw(runs: Sequence[Run]) -> str:
    """The SVG of one or several runs: a panel of losses and, where there are any, of rollouts."""
    num_lines = sum(len(run.losses) + len(run.success) for run in runs)
    limit = max(2, MOST_POINTS // num_lines)
    panels = [
        panel
        for make in (_loss_panel, _success_panel)
        if (panel := make(runs, lambda rows: thin(rows, limit))) is not None
    ]
    legend = [(run.name, COLOURS[i], run.final_text) for i, run in enumerate(runs)]
    return chart(legend, panels, num_epochs=max(run.num_epochs for run in runs))


def thin(rows: Sequence[tuple[float, ...]], limit: int) -> list[tuple[float, ...]]:
    """At most about `limit` rows: lowest and highest of each stretch, so that peaks stay."""
    if len(rows) <= limit:
        return list(rows)
    kept: list[tuple[float, ...]] = []
    size = -(-len(rows) // max(1, limit // 2))
    for start in range(0, len(rows), size):
        stretch = rows[start : start + size]
        numbers = [row for row in stretch if abs(row[1]) < float("inf")]
        ends = {min(numbers, key=_value), max(numbers, key=_value)} if numbers else {stretch[0]}
        kept += sorted(ends)
    return kept


Thin = Callable[[Sequence[tuple[float, ...]]], list[tuple[float, ...]]]


def _loss_panel(runs: Sequence[Run], thinned: Thin) -> Panel | None:
    """One run: a colour for each split. Several: a colour for each run, validation dashed."""
    alone = len(runs) == 1
    curves: list[Curve] = []
    for i, run in enumerate(runs):
        for dashed, (split, rows) in enumerate(run.losses.items()):
            colour = COLOURS[i + dashed] if alone else COLOURS[i]
            curves.append(Curve(split, colour, thinned(rows), dashed=not alone and dashed > 0))
    values = [y for curve in curves for _, y in curve.rows if abs(y) < float("inf")]
    if not values:
        return None
    keys = {c.name: c if alone else Curve(c.name, QUIET, [], dashed=c.dashed) for c in curves}
    return Panel("Loss", curves, axis_of(values), list(keys.values()))


def _success_panel(runs: Sequence[Run], thinned: Thin) -> Panel | None:
    curves = [
        Curve(env, COLOURS[i], thinned(rows), dashed=number > 0)
        for i, run in enumerate(runs)
        for number, (env, rows) in enumerate(run.success.items())
    ]
    marks = [Mark(COLOURS[i], *run.final) for i, run in enumerate(runs) if run.final is not None]
    if not curves and not marks:
        return None
    environments = list(dict.fromkeys(curve.name for curve in curves))
    title = f"Success rate in {' and '.join(environments)}" if environments else "Success rate"
    counts = sorted(set[int]().union(*(run.episodes for run in runs)))
    if counts:
        title += f", n = {' or '.join(map(str, counts))}"
    axis = linear_axis(0.0, 1.0, as_percent=True)
    band = Curve("95 % interval", COLOURS[0] if len(runs) == 1 else QUIET, [], is_band=True)
    return Panel(title, curves, axis, [band], marks)


def _saved_name(directory: Path) -> str:
    config = _load(directory / "config.yaml")
    return str(config["name"]) if config and "name" in config else directory.resolve().name


def _overrides(directory: Path) -> list[str]:
    words: Sequence[Any] = _load(directory / "overrides.yaml") or []
    return [str(word) for word in words if not str(word).startswith(("hydra.", "name="))]


def _load(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return OmegaConf.load(path)
    except Exception as error:  # any parser's complaint about a damaged file
        raise CheckpointError(f"{path}: cannot be read ({error}); restore or delete it") from error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _natural(path: Path) -> list[Any]:
    """Sorts run_10 behind run_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _value(row: tuple[float, ...]) -> float:
    return row[1]


if __name__ == "__main__":
    sys.exit(run_command(PlotArguments, plot, prog=PROG))
