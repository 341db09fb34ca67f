"""Killed at any moment, a run is resumed into the very run that nobody killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.campaign import QUIET, TINY, Tally, Whole, carried_on, whole_run
from tests.faults.training import Fault

pytestmark = [pytest.mark.faults, pytest.mark.slow]

_LAYERS = ["algo.actor_layer_dims=[16]"]
_CRITICS = ["algo.critic_layer_dims=[16]"]
_UNET = ["algo.backbone.down_dims=[8,16]", "algo.backbone.n_groups=4"]
ALGORITHMS = {
    "bc": [*_LAYERS, "algo/lr_schedule=cosine"],
    "bc_rnn_gmm": [*_LAYERS, "algo.hidden_dim=8"],
    "bc_transformer_gmm": ["algo.embed_dim=8", "algo.num_layers=1", "algo.num_heads=2"],
    "bc_vae": ["algo.encoder_layer_dims=[16]", "algo.decoder_layer_dims=[16]"],
    "act": [
        "algo.dim=8",
        "algo.num_heads=2",
        "algo.feedforward_dim=16",
        "algo.num_encoder_layers=1",
        "algo.seq_length=4",
    ],
    "diffusion_policy": [*_UNET, "algo.backbone.step_embed_dim=8"],
    "flow_policy": [*_UNET, "algo.backbone.step_embed_dim=8"],
    "td3_bc": [*_LAYERS, *_CRITICS],
    "cql": [*_LAYERS, *_CRITICS],
    "iql": [*_LAYERS, *_CRITICS],
    "bcq": [],
}
"""Each algorithm in the smallest size; diffusion_policy and flow_policy have moving averages."""


def moment(draws: random.Random, whole: Whole) -> Fault:
    """Some moment of the whole life of a run, starting up and finishing included."""
    kind = draws.choice(("call", "call", "file", "cpu"))
    return Fault(kind, draws.uniform(0, 1) * whole.counts[kind])


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_killed_at_any_moment(algo: str, tmp_path: Path, tally: Tally, fault_rounds: int) -> None:
    arguments = [*TINY, *QUIET, f"algo={algo}", *ALGORITHMS[algo]]
    whole = whole_run(arguments, tmp_path / "whole")
    draws = random.Random(algo)
    for i in range(2 * fault_rounds):
        carried_on(whole, tmp_path / f"{i}", [moment(draws, whole)], tally)
    carried_on(whole, tmp_path / "twice", [moment(draws, whole), moment(draws, whole)], tally)


@pytest.mark.parametrize("algo", ["bc", "diffusion_policy"])
def test_killed_inside_the_writing_of_a_checkpoint(
    algo: str, tmp_path: Path, tally: Tally, fault_rounds: int
) -> None:
    """At some byte of it: of the first one, and of the first one of a run that was resumed."""
    whole = whole_run([*TINY, *QUIET, f"algo={algo}", *ALGORITHMS[algo]], tmp_path / "whole")
    draws = random.Random(algo)
    size = (whole.run / "checkpoints" / "last.pt").stat().st_size
    for i in range(2 * fault_rounds):
        torn = Fault("byte", draws.randrange(size // 5, size))
        later = [Fault("call", 3, "save_last"), torn]
        carried_on(whole, tmp_path / str(i), later if i % 2 else [torn], tally)
    assert tally.kills == 3 * fault_rounds
