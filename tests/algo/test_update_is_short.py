"""An update can be read and captured: few functions in few files, no tensor read by the host.

Counted is what a reader opens who follows one training step line by line: every function of the
project that is called between entering `train_on_batch` and leaving it, however deep, once each,
and the files they stand in. Networks, losses and random draws count like all else; torch does not,
and a lambda or comprehension belongs to the function it stands in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import rmexp
from rmexp import build
from rmexp.algo.base import Algo, Batch, Spec
from tests.small_networks import ALGOS, composed

PROJECT = Path(rmexp.__file__).parent

SHORT = (12, 6)
"""Functions and files at most, but for those below."""
LIMITS = {
    # These update several algorithms, each of which is short, and add little: see `PARTS`.
    "bcq_gmm": (17, 7),
    "hbc": (18, 12),
    "iris": (24, 14),
}
PARTS = {
    "bcq_gmm": ("bc_gmm",),  # as the model of the data's actions
    "hbc": ("gl_vae", "bc_rnn"),
    "iris": ("gl_vae", "bcq", "bc_rnn"),
}
"""The algorithms that an algorithm contains."""
IMAGES = (5, 3)
"""What images add: the network of a camera."""

SIZES = {"width": 16, "crop": [18, 19], "feature_dim": 5, "num_samples": 3}
CHOSEN = ["dataset=hdf5", "dataset.path=none", "rollout=none", "logging=none"]
LOW_DIM = {"object": (10,), "pose": (5,)}
CAMERA = {"hand": (3, 20, 22)}
B, A = 4, 7


@pytest.mark.parametrize("name", ALGOS)
def test_an_update_is_short(name: str) -> None:
    """The higher limits are exact, so that an update that became shorter gets a lower one."""
    functions = functions_of_an_update(*prepared(name, LOW_DIM))
    size = len(functions), len(files(functions))
    if name in LIMITS:
        assert size == LIMITS[name], sorted(functions)
    else:
        assert size[0] <= SHORT[0], sorted(functions)
        assert size[1] <= SHORT[1], sorted(functions)


@pytest.mark.parametrize("name", PARTS)
def test_what_contains_other_algorithms_adds_a_short_update(name: str) -> None:
    known = set[tuple[str, str]]()
    for part in PARTS[name]:
        known |= functions_of_an_update(*prepared(part, LOW_DIM))
    added = functions_of_an_update(*prepared(name, LOW_DIM)) - known
    assert len(added) <= SHORT[0], sorted(added)
    assert len(files(added)) <= SHORT[1], sorted(added)


def test_images_add_little() -> None:
    without = functions_of_an_update(*prepared("bc", LOW_DIM))
    added = functions_of_an_update(*prepared("bc", LOW_DIM | CAMERA)) - without
    assert (len(added), len(files(added) - files(without))) == IMAGES, sorted(added)


@pytest.mark.parametrize("name", ALGOS)
def test_nothing_is_read_back_to_the_host(name: str) -> None:
    """No `.item()`, no `float` or `if` of a tensor: on a GPU each would wait for all before it."""
    algo, batch = prepared(name, LOW_DIM | CAMERA)
    for validate in (False, True):
        with NoReading(), torch.set_grad_enabled(not validate):
            algo.augmented(batch)
            info = algo.train_on_batch(batch, epoch=1, validate=validate)
            if not validate:
                algo.on_gradient_step()
            logged = algo.log_info(info)
        assert isinstance(logged["loss"], torch.Tensor)


def test_a_reading_would_be_noticed() -> None:
    for read in (torch.Tensor.item, float, bool):
        with pytest.raises(AssertionError, match="read back"), NoReading():
            read(torch.ones(()))


class NoReading(TorchDispatchMode):
    """Inside it, reading a tensor's value fails."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a tensor is read back"
        return func(*args, **(kwargs or {}))


def prepared(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Algo, Batch]:
    """The algorithm as the command line builds it, one step old, and a processed batch."""
    config = composed(name, CHOSEN, SIZES)
    spec = Spec(
        obs_shapes=shapes,
        goal_shapes=shapes if config.dataset.goal_mode else {},
        ac_dim=A,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=10,
        seed=0,
    )
    algo = build.algo(config, spec, torch.device("cpu"))
    algo.set_train()
    batch = algo.process_batch_for_training(window(algo))
    batch = algo.postprocess_batch_for_training(batch)
    algo.train_on_batch(batch, epoch=1)  # the first step makes the optimisers' state
    return algo, batch


def window(algo: Algo) -> dict[str, Any]:
    """A batch as a loader hands it out."""
    time = algo.spec.frame_stack - 1 + algo.spec.seq_length
    batch = {
        **{name: observations(algo, B, time) for name in ("obs", "next_obs", "future_obs")},
        "goal_obs": observations(algo, B),
        "actions": torch.rand(B, time, A) * 2 - 1,
        "rewards": torch.rand(B, time),
        "dones": torch.zeros(B, time),
        "pad_mask": torch.ones(B, time, 1, dtype=torch.bool),
    }
    return {key: batch[key] for key in algo.batch_keys}


def observations(algo: Algo, *lead: int) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for key, shape in algo.spec.obs_shapes.items():
        if len(shape) == 3:
            made[key] = torch.randint(0, 256, (*lead, *shape[1:], shape[0])).byte()
        else:
            made[key] = torch.randn(*lead, *shape)
    return made


def functions_of_an_update(algo: Algo, batch: Batch) -> set[tuple[str, str]]:
    """(file, name) of every function of the project that one update calls."""
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not frame.f_code.co_name.startswith("<"):
            called.add(frame.f_code)

    sys.setprofile(note)
    try:
        algo.train_on_batch(batch, epoch=1)
    finally:
        sys.setprofile(None)
    return {
        (Path(code.co_filename).relative_to(PROJECT).as_posix(), code.co_qualname)
        for code in called
        if Path(code.co_filename).is_relative_to(PROJECT)
    }


def files(functions: set[tuple[str, str]]) -> set[str]:
    return {file for file, _ in functions}
