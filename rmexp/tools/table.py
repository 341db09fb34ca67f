"""Success rates as Markdown for a README: `python -m rmexp.tools.table runs=SWEEP`.

Runs that differ in nothing but the seed make one line. Everything comes from what the runs left
behind; a run that has no result is named below the table, never dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rmexp.arguments import argument, run_command
from rmexp.errors import ConfigError
from rmexp.loggers.jsonl import FINAL, JsonlRecord
from rmexp.loggers.report import duration, number
from rmexp.rollout.statistics import wilson_interval
from rmexp.run_dir import RunDirectory, config_hash, saved_config
from rmexp.tools.plot import find_runs, run_names, write_out

if TYPE_CHECKING:
    from rmexp.policy import Policy

PROG = "python -m rmexp.tools.table"
HEADER = (
    "algorithm",
    "data",
    "success [95 %]",
    "seeds",
    "steps",
    "parameters",
    "training",
    "rollouts",
)
LEGEND = (
    "Success: the final evaluations of all seeds pooled, with the 95 % Wilson interval of their "
    "episodes; it knows nothing of how much training varies: see the successes of each seed. "
    "What does not act has the last validation loss instead: the mean, and that of each seed. "
    "Training (with validation) and rollouts (all of them): mean wall time of a run."
)


@dataclass
class TableArguments:
    """Tabulate success rates, sizes and times of runs, those of one algorithm on one line."""

    runs: Any = argument("run directories, or directories with runs somewhere below: [A,B] or A")
    out: str | None = argument("file to write (md); null: the terminal", default=None)
    trust: list[str] = argument("classes of your own that the checkpoints may name", default=[])

    def __post_init__(self) -> None:
        words: list[Any] = self.runs if isinstance(self.runs, list) else [self.runs]
        self.runs = [str(word) for word in words if word is not None]


@dataclass(frozen=True)
class Result:
    """What one run left behind."""

    directory: Path
    config: DictConfig
    state: str
    error: str
    rows: Sequence[Mapping[str, float]]

    @property
    def final(self) -> tuple[int, int] | None:
        """Successes and episodes of the last final evaluation."""
        for row in reversed(self.rows):
            if f"{FINAL}success_rate" in row:
                episodes = round(row[f"{FINAL}num_episodes"])
                return round(row[f"{FINAL}success_rate"] * episodes), episodes
        return None

    @property
    def loss(self) -> float | None:
        """The last validation loss."""
        losses = [row["valid/loss"] for row in self.rows if "valid/loss" in row]
        return losses[-1] if losses else None

    def policy(self, trust: Sequence[str]) -> Policy:
        """That of the last step."""
        from rmexp.policy import Policy  # torch, which a table of nothing does not need

        checkpoint = RunDirectory(self.directory).checkpoints / "last.pt"
        return Policy.load(checkpoint, trust=trust, device="cpu")

    def seconds(self, *phases: str) -> float:
        return sum(row.get(f"time/{phase}/epoch_s", 0.0) for row in self.rows for phase in phases)

    def missing(self, trust: Sequence[str]) -> str | None:
        """Why this run is not in the table, or None if it is."""
        if self.state != "finished":
            return f"{self.state}{f': {self.error}' if self.error else ''}"
        if self.final is None and (self.loss is None or self.policy(trust).algo.acts):
            loss = "" if self.loss is None else f"; validation loss {number(self.loss)}"
            return f"finished without a success rate{loss}"
        return None


def table(arguments: TableArguments) -> None:
    """Read the runs and write the table."""
    paths = [Path(word).expanduser() for word in arguments.runs]
    results = [read_result(path) for path in find_runs(paths, "status.json")]
    text = markdown(results, arguments.trust)
    if arguments.out is None:
        sys.stdout.write(text)
        return
    out = Path(arguments.out).expanduser()
    write_out(out, text)
    sys.stdout.write(f"{out}: {len(results)} runs\n")


def read_result(path: Path) -> Result:
    """What stands in a run's directory."""
    directory = RunDirectory(path)
    status = directory.status() or {}
    record = directory.metrics_file
    return Result(
        directory=path,
        config=DictConfig(saved_config(path)),
        state=str(status.get("state", "unknown")),
        error=next(iter(str(status.get("error", "")).splitlines()), ""),
        rows=JsonlRecord.read(record) if record.exists() else [],
    )


def markdown(results: Sequence[Result], trust: Sequence[str]) -> str:
    """One line for each configuration, then what it means, then the runs that are not in it.

    Raises:
        ConfigError: no run has a result; says of each why.
    """
    groups: dict[str, list[Result]] = {}
    absent: list[str] = []
    for result in results:
        if (why := result.missing(trust)) is not None:
            absent.append(f"- {result.directory}: {why}")
        else:
            groups.setdefault(_but_for_the_seed(result.config), []).append(result)
    if not groups:
        raise ConfigError(
            "no run has a success rate, which the rollouts at its end give: finish it with "
            "python -m rmexp resume=DIR, or start it without rollout=none\n" + "\n".join(absent)
        )
    names = run_names([group[0].directory for group in groups.values()])
    lines = [_cells(HEADER), _cells(["---"] * 2 + ["---:"] * (len(HEADER) - 2))]
    rows = [_row(n, group, trust) for n, group in zip(names, groups.values(), strict=True)]
    lines += [_cells(row) for row in sorted(rows, key=lambda row: (row[1], row[0]))]
    notes = [LEGEND]
    most = max(map(len, groups.values()))
    notes += [
        f"Fewer seeds than the rest: {name} ({len(group)} of {most})."
        for name, group in zip(names, groups.values(), strict=True)
        if len(group) < most
    ]
    if absent:
        notes.append("\n".join(["Not in the table:", *absent]))
    return "\n\n".join(["\n".join(lines), *notes]) + "\n"


def _row(name: str, group: Sequence[Result], trust: Sequence[str]) -> list[str]:
    """The cells of runs that differ in their seed only."""
    by_seed = sorted(group, key=lambda result: result.config.seed)
    for one, other in pairwise(by_seed):
        if one.config.seed == other.config.seed:
            raise ConfigError(
                f"{one.directory} and {other.directory} are the same run (seed "
                f"{one.config.seed}); name those to tabulate: runs=[{one.directory},...]"
            )
    data = _data_name(group[0].config)
    return [
        name.replace(f"_{data}", "", 1),
        data,
        *_outcome(by_seed),
        f"{round(group[0].rows[-1]['global_step']):,}",
        f"{group[0].policy(trust).algo.num_parameters():,}",
        duration(fmean(result.seconds("train", "valid") for result in group)),
        duration(fmean(result.seconds("rollout") for result in group)),
    ]


def _outcome(by_seed: Sequence[Result]) -> tuple[str, str]:
    """All runs together, and each: success rates, or validation losses of what does not act."""
    finals = [result.final for result in by_seed if result.final is not None]
    if not finals:
        losses = [result.loss for result in by_seed if result.loss is not None]
        return f"loss {number(fmean(losses))}", ", ".join(map(number, losses))
    successes, episodes = (sum(column) for column in zip(*finals, strict=True))
    low, high = wilson_interval(successes, episodes)
    rate = f"{100 * successes / episodes:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return rate, ", ".join(f"{won}/{n}" for won, n in finals)


def _but_for_the_seed(config: DictConfig) -> str:
    same = config.copy()
    same.seed = None
    return config_hash(same)


def _data_name(config: DictConfig) -> str:
    path: Any = OmegaConf.to_container(config.dataset).get("path")  # pyright: ignore
    files: list[str] = path if isinstance(path, list) else [str(path)]
    return "+".join(Path(file).stem for file in files)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(run_command(TableArguments, table, prog=PROG))
