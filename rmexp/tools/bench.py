"""`python -m rmexp.tools.bench`: is rmexp as fast and as small as it promises, on this machine?

A benchmark, not a test: a figure over its budget is shown, not an error.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmexp.arguments import argument, run_command
from rmexp.atomic import write_atomically
from rmexp.errors import ConfigError, RmexpError
from rmexp.suggest import nearest

if TYPE_CHECKING:
    from rmexp.tools.bench_blocks import Row
    from rmexp.tools.bench_subject import Setting

PROG = "python -m rmexp.tools.bench"
PARTS = ("loop", "reference", "algorithms", "data", "start", "memory")


@dataclass(kw_only=True)
class BenchArguments:
    """Measure training speed, data speed, start time and memory; print a table, write JSON."""

    only: list[str] = argument(f"parts to measure, of [{','.join(PARTS)}]", default=list(PARTS))
    reference: str | None = argument(
        "a Python interpreter with robomimic, to compare with; null: without", default=None
    )
    steps: int = argument("steps or batches in a block", default=20)
    rounds: int = argument("rounds of blocks, of which the median counts", default=40)
    image_mb: int = argument("size of the image file, in 10^6 bytes", default=64)
    out: str = argument("write every figure here (JSON)", default="bench.json")

    def __post_init__(self) -> None:
        for part in self.only:
            if part not in PARTS:
                hint = nearest(part, PARTS)
                raise ConfigError(f"{PROG}: no part {part!r}{hint}; choose of {', '.join(PARTS)}")
        for name in ("steps", "rounds", "image_mb"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{PROG}: {name}={getattr(self, name)} is too small; at least 1")


def bench(arguments: BenchArguments) -> None:
    """Measure all parts asked for; one that cannot be measured does not stop the others."""
    import torch

    from rmexp.tools import bench_algorithms, bench_parts, bench_process, bench_subject

    torch.set_num_threads(1)
    measures: dict[str, Callable[[Setting], list[Row]]] = {
        "loop": bench_parts.measure_loop,
        "reference": bench_parts.measure_reference,
        "algorithms": bench_algorithms.measure_algorithms,
        "data": bench_parts.measure_data,
        "start": bench_process.measure_start,
        "memory": bench_process.measure_memory,
    }
    console = Console(stderr=True)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rmexp-bench-") as folder:
        setting = bench_subject.Setting(
            folder=Path(folder),
            steps=arguments.steps,
            rounds=arguments.rounds,
            image_mb=arguments.image_mb,
            reference=arguments.reference,
        )
        for part in arguments.only:
            if part == "reference" and arguments.reference is None:
                skipped[part] = "no interpreter was given; reference=/path/to/python"
                continue
            try:
                with console.status(f"measuring {part}"):
                    rows += measures[part](setting)
            except RmexpError as error:
                failed[part] = str(error)
    _show(rows, skipped)
    shown = [{**asdict(row), "over": row.is_over} for row in rows]
    report = {
        "machine": _machine(torch.__version__),
        "arguments": asdict(arguments),
        "rows": shown,
        "skipped": skipped,
        "failed": failed,
    }
    write_atomically(Path(arguments.out), (json.dumps(report, indent=2) + "\n").encode())
    if failed:
        listed = "\n".join(f"  {part}: {reason}" for part, reason in failed.items())
        raise RmexpError(f"not everything could be measured:\n{listed}")


def _show(rows: Sequence[Row], skipped: dict[str, str]) -> None:
    table = Table(title="rmexp on one thread", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in ("part", "what"):
        table.add_column(column, no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("budget", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    part = ""
    for row in rows:
        if part not in ("", row.part):
            table.add_section()
        limit, verdict = "", Text("")
        if row.budget is not None:
            limit = f"{'>=' if row.at_least else '<='} {row.budget:g}"
            verdict = Text("over", style="bold red") if row.is_over else Text("ok", style="green")
        label = "" if part == row.part else row.part
        table.add_row(label, row.name, _number(row.figure), row.unit, limit, verdict)
        part = row.part
    console = Console()
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.part}, {row.name.strip()}: {row.note}", highlight=False)
    for name, reason in skipped.items():
        console.print(f"{name}: skipped, {reason}", highlight=False)


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.2f}"


def _machine(torch_version: str) -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch_version,
    }


if __name__ == "__main__":
    sys.exit(run_command(BenchArguments, bench, prog=PROG))
