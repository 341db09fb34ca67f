"""Training speed of single algorithms, the whole loop and the update alone, beside the reference.

Sizes are those of the shipped configurations, which are the reference's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rmexp.tools.bench_blocks import Block, Reference, Rounds, Row, timed
from rmexp.tools.bench_files import lift_file, rewarded_file
from rmexp.tools.bench_subject import WARM_UP, Setting, Subject


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An algorithm of the reference; `options` are its keys below `algo`, as in `Subject.job`."""

    algo: str
    options: Mapping[str, Any]
    batch_size: int
    rewards: bool
    budget: float
    steps: float = 1.0
    """Length of its blocks, relative to what was asked for."""


ACTOR_AND_CRITIC = {
    "actor.layer_dims": "actor_layer_dims",
    "critic.layer_dims": "critic_layer_dims",
    "critic.ensemble.n": "num_critics",
}
PEERS = {
    "td3_bc": Peer(
        algo="td3_bc", options=ACTOR_AND_CRITIC, batch_size=256, rewards=True, budget=1.5
    ),
    "iql": Peer(algo="iql", options=ACTOR_AND_CRITIC, batch_size=100, rewards=True, budget=1.5),
    "bc_rnn_gmm": Peer(
        algo="bc",
        options={
            "actor_layer_dims": "actor_layer_dims",
            "rnn.horizon": "seq_length",
            "rnn.hidden_dim": "hidden_dim",
            "rnn.num_layers": "num_layers",
            "rnn.enabled": True,
            "gmm.enabled": True,
        },
        batch_size=100,
        rewards=False,
        budget=1.1,
        steps=0.1,
    ),
}


def measure_algorithms(setting: Setting) -> list[Row]:
    """Of every algorithm in `PEERS`; ratios only where a reference was given."""
    return [row for name, peer in PEERS.items() for row in _measure(setting, name, peer)]


def _measure(setting: Setting, name: str, peer: Peer) -> list[Row]:
    file = _file(setting.folder, peer)
    subject = Subject(file, [f"algo={name}", f"loop.batch_size={peer.batch_size}"])
    steps = max(1, round(peer.steps * setting.steps))
    job = subject.job("all", algo=peer.algo, options=peer.options)
    python = setting.reference
    with nullcontext() if python is None else Reference(python, job) as reference:
        theirs: dict[str, Block] = {}
        if reference is not None:
            for what in ("loop", "update"):
                reference.block(what, WARM_UP)()
                theirs[f"{what}, reference"] = reference.block(what, steps)

        def blocks() -> dict[str, Block]:
            algo = subject.fresh_algo()
            inputs = algo.process_batch_for_training(subject.batch)
            ours = {
                "loop": timed(partial(subject.train, algo, steps)),
                "update": timed(partial(subject.update, algo, inputs, steps)),
            }
            return ours | theirs

        rounds = Rounds(blocks, setting.rounds)
    return _rows(name, peer, steps, rounds)


def _file(folder: Path, peer: Peer) -> Path:
    return rewarded_file(folder) if peer.rewards else lift_file(folder)


def _rows(name: str, peer: Peer, steps: int, rounds: Rounds) -> list[Row]:
    row = partial(Row, part="algorithms")
    rows: list[Row] = []
    for what, title in (("loop", f"{name}, batch {peer.batch_size}"), ("update", "  update alone")):
        rows.append(row(name=title, figure=steps / rounds.median(what), unit="steps/s"))
        other = f"{what}, reference"
        if other in rounds.seconds:
            ratio = row(
                name="  to reference",
                figure=rounds.ratio(other, what),
                unit="x",
                budget=peer.budget if what == "loop" else None,
                at_least=True,
                note=f"{steps / rounds.median(other):.3g} steps/s",
            )
            rows.append(ratio)
    return rows
