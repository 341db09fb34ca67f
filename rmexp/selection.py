"""What "best" means: the success rate once there is one, else the validation loss or the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmexp.rollout.statistics import RolloutResult
from rmexp.rows import Row

SHOWN = (
    "epoch",
    "loss",
    "success_rate",
    "success_rate_low",
    "success_rate_high",
    "num_episodes",
)
"""What the summary repeats of the best epoch."""


class Selection:
    """The best epoch so far, and the success rates of all that were rolled out."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}
        self.curve: list[list[float]] = []
        """[epoch, success rate, low, high] of each rollout."""

    def add_rollout(self, epoch: int, result: RolloutResult) -> None:
        metrics = result.metrics()
        point = [metrics[f"success_rate{end}"] for end in ("", "_low", "_high")]
        self.curve.append([float(epoch), *point])

    def is_best(self, epoch: int, row: Row, validates: bool) -> bool:
        """Whether this epoch beats all before it; remembers it if so."""
        rolled_out = {k.rpartition("/")[2]: v for k, v in row.items() if k.startswith("rollout/")}
        if self.curve:
            better = rolled_out.get("success_rate", -1.0) > self.best.get("success_rate", -1.0)
            new = rolled_out
        else:
            loss = row.get("valid/loss", float("inf") if validates else row["train/loss"])
            better = loss < self.best.get("loss", float("inf"))
            new = {"loss": loss}
        if better:
            self.best = {"epoch": float(epoch), **new}
        return better

    def summary(self) -> Row:
        return {f"best/{name}": self.best[name] for name in SHOWN if name in self.best}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "curve": self.curve}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.curve = dict(state["best"]), [list(point) for point in state["curve"]]
