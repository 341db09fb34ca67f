"""The reference's `optim_params`: rates, schedules, decay."""

from __future__ import annotations

from typing import Any

from rmexp.compat.options import Options

Overrides = dict[str, Any]
"""Groups and values of ours: {"algo": "bc_gmm", "algo.lr": 1e-3}."""

OPTIMIZERS = {"adam": "adam", "adamw": "adamw"}


def optimizer(options: Options, net: str, prefix: str = "") -> Overrides:
    """Rate, schedule and decay of one of the reference's networks."""
    place = f"optim_params.{net}"
    rate = f"{place}.learning_rate"
    options.ignore(f"{place}.num_train_batches", f"{place}.num_epochs")
    for when in ("start_epoch", "end_epoch"):
        options.only(f"{place}.{when}", -1, default=-1)
    overrides: Overrides = {
        f"algo.{prefix}lr": options.number(f"{rate}.initial"),
        f"algo.{prefix}l2_regularization": options.number(f"{place}.regularization.L2"),
    }
    epochs = options.integers(f"{rate}.epoch_schedule", default=[])
    decay = options.number(f"{rate}.decay_factor", default=1.0)
    kinds = {"multistep": "multistep", "linear": "linear", "cosine": "cosine"}
    kind = options.word(f"{rate}.scheduler_type", kinds, default="multistep")
    every_batch = options.switch(f"{rate}.step_every_batch", default=False)
    cycles = options.number(f"{rate}.num_cycles", default=0.5)
    warmup = options.integer(f"{rate}.warmup_steps", default=0)
    if every_batch != (kind == "cosine") and (epochs or kind == "cosine"):
        options.complain(
            f"{rate}.step_every_batch",
            "in rmexp the cosine counts gradient steps and the others count epochs",
        )
    group = f"algo/lr_schedule@algo.{prefix}lr_schedule" if prefix else "algo/lr_schedule"
    node = f"algo.{prefix}lr_schedule"
    if kind == "cosine":
        chosen: Overrides = {f"{node}.warmup_steps": warmup, f"{node}.num_cycles": cycles}
    elif not epochs:
        return {group: "constant", **overrides}
    elif kind == "multistep":
        chosen = {f"{node}.epochs": epochs, f"{node}.decay_factor": decay}
    else:
        if len(epochs) != 1:
            options.complain(f"{rate}.epoch_schedule", "with `linear` it is the one last epoch")
        chosen = {f"{node}.num_epochs": epochs[0], f"{node}.decay_factor": decay}
    return {group: kind, **chosen, **overrides}


def optimizer_type(options: Options, *nets: str) -> Overrides:
    """Adam or AdamW, one for all networks."""
    kinds = {
        options.word(f"optim_params.{net}.optimizer_type", OPTIMIZERS, default="adam")
        for net in nets
    }
    if len(kinds) > 1:
        options.complain("optim_params", "rmexp has one optimizer_type for all networks")
    return {"algo.optimizer": kinds.pop()}
