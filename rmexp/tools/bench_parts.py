"""Speed of the loop and of the data, each against a bare loop or the reference."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rmexp.algo.base import Batch
from rmexp.algo.bc import BC
from rmexp.data.loader import Loader
from rmexp.tools.bench_blocks import Block, Reference, Rounds, Row, timed
from rmexp.tools.bench_files import CAMERAS, LOW_DIM, image_file, lift_file
from rmexp.tools.bench_subject import WARM_UP, Setting, Subject

BC_OPTIONS = {
    "actor_layer_dims": "actor_layer_dims",
    "optim_params.policy.learning_rate.initial": "lr",
}


# --- loop and reference ---------------------------------------------------------------------------


def measure_loop(setting: Setting) -> list[Row]:
    """`run_epoch` against a bare loop over one batch: the same network, loss and optimiser."""
    subject = Subject(lift_file(setting.folder), ["algo=bc"])
    epochs: list[dict[str, float]] = []

    def blocks() -> dict[str, Block]:
        ours, bare, stepping = (_bc(subject) for _ in range(3))
        return {
            "ours": timed(lambda: epochs.append(subject.train(ours, setting.steps))),
            "bare": timed(partial(_bare_loop, bare, subject.batch, setting.steps, norm=False)),
            "norm": timed(partial(_bare_loop, stepping, subject.batch, setting.steps, norm=True)),
        }

    rounds = Rounds(blocks, setting.rounds)
    over = rounds.ratio("ours", "bare")
    row = partial(Row, part="loop")
    spans = {
        part: 100 * statistics.median(e[f"time/{part}_s"] / e["time/epoch_s"] for e in epochs)
        for part in ("data_loading", "process_batch", "log_info")
    }
    norm = 100 * (rounds.ratio("norm", "bare") - 1) / over
    return [
        row(name="run_epoch", figure=setting.steps / rounds.median("ours"), unit="steps/s"),
        row(name="bare loop", figure=setting.steps / rounds.median("bare"), unit="steps/s"),
        row(
            name="overhead",
            figure=100 * (1 - 1 / over),
            unit="% of step",
            budget=3,
            note="all but forward, loss, backward, optimiser; the norm is computed to be logged",
        ),
        *(row(name=f"  {part}", figure=share, unit="% of step") for part, share in spans.items()),
        row(
            name="  optimizer.step",
            figure=norm,
            unit="% of step",
            note="beyond torch's own: the norm, less what torch's zero_grad takes",
        ),
    ]


def measure_reference(setting: Setting) -> list[Row]:
    """`run_epoch` against the reference's, each with its own loader on the same file."""
    assert setting.reference is not None
    file = lift_file(setting.folder)
    subject = Subject(file, ["algo=bc"])
    job = subject.job("all", algo="bc", options=BC_OPTIONS)
    with Reference(setting.reference, job) as reference:
        reference.block("loop", WARM_UP)()

        def blocks() -> dict[str, Block]:
            ours = _bc(subject)
            return {
                "ours": timed(lambda: subject.train(ours, setting.steps)),
                "reference": reference.block("loop", setting.steps),
            }

        rounds = Rounds(blocks, setting.rounds)
    versions = ", ".join(f"{name} {version}" for name, version in reference.versions.items())
    row = partial(Row, part="reference")
    return [
        row(name="run_epoch", figure=setting.steps / rounds.median("ours"), unit="steps/s"),
        row(
            name="the reference's loop",
            figure=setting.steps / rounds.median("reference"),
            unit="steps/s",
            note=versions,
        ),
        row(
            name="ours to reference",
            figure=rounds.ratio("reference", "ours"),
            unit="x",
            budget=1.6,
            at_least=True,
        ),
    ]


def _bc(subject: Subject) -> BC:
    algo = subject.fresh_algo()
    assert isinstance(algo, BC)
    return algo


def _bare_loop(algo: BC, batch: Batch, steps: int, *, norm: bool) -> None:
    """The least that a training step can be; `norm` steps by our optimiser, which has it."""
    algo.set_train()
    optimizer = algo.optimizers["actor"]
    inputs = algo.process_batch_for_training(batch)
    for _ in range(steps):
        loss = algo.head.losses(algo.actor(inputs["obs"]), inputs["actions"])["loss"]
        if norm:
            optimizer.step(loss)
        else:
            optimizer.torch.zero_grad()
            loss.backward()
            optimizer.torch.step()


# --- data -----------------------------------------------------------------------------------------


def measure_data(setting: Setting) -> list[Row]:
    """Batch assembly alone; the reference's loader on the same file beside it."""
    low_dim, images = lift_file(setting.folder), image_file(setting.folder, setting.image_mb)
    keys = f"dataset.obs_keys=[{','.join([*LOW_DIM, *CAMERAS])}]"
    ten = "dataset.seq_length=10"
    rows = _batches(setting, "low-dim, 100 x 1 frames", low_dim, [], {"all": "all"})
    rows += _batches(setting, "low-dim, 100 x 10 frames", low_dim, [ten], {"all": "all"})
    modes = {"low_dim": "low_dim, its choice for images", "all": "all, each window in memory"}
    name = "2 cameras, 16 x 10 frames"
    return rows + _batches(setting, name, images, [ten, keys, "loop.batch_size=16"], modes)


def _batches(
    setting: Setting, name: str, file: Path, overrides: list[str], modes: Mapping[str, str]
) -> list[Row]:
    """`modes` are the reference's ways of caching; the budget is for the first of them."""
    subject = Subject(file, overrides)
    size = subject.config.loop.batch_size
    with ExitStack() as stack:
        theirs: dict[str, Reference] = {}
        if setting.reference is not None:
            for mode in modes:
                theirs[mode] = stack.enter_context(Reference(setting.reference, subject.job(mode)))
        blocks = {"ours": timed(partial(_draw, subject.loader, setting.steps))}
        blocks |= {mode: other.block("data", setting.steps) for mode, other in theirs.items()}
        rounds = Rounds(lambda: blocks, setting.rounds)
    speed = setting.steps * size / rounds.median("ours")
    rows = [Row(part="data", name=name, figure=speed, unit="samples/s")]
    for number, mode in enumerate(theirs):
        rows.append(
            Row(
                part="data",
                name="  to reference",
                figure=rounds.ratio(mode, "ours"),
                unit="x",
                budget=10 if number == 0 else None,
                at_least=True,
                note=f"hdf5_cache_mode={modes[mode]}",
            )
        )
    return rows


def _draw(loader: Loader, count: int) -> None:
    batches = iter(loader)
    for _ in range(count):
        if next(batches, None) is None:
            batches = iter(loader)
            next(batches)
