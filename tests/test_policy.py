from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp import checkpoint
from rmexp.algo.base import Spec
from rmexp.algo.bc import BC
from rmexp.algo.optim import MultiStep
from rmexp.errors import CheckpointError
from rmexp.nets.heads import GMM
from rmexp.policy import ROWS, Policy
from tests.algo.golden_case import encoding
from tests.command_line import TINY, run_here

SHAPES = {"object": (10,), "robot0_eef_pos": (3,)}
CPU = torch.device("cpu")


def algo() -> BC:
    return BC(
        encoder=encoding(),
        actor_layer_dims=[1024, 1024],
        head=GMM(num_modes=5, min_std=1e-4, low_noise_eval=False),
        optimizer="adam",
        lr=1e-4,
        lr_schedule=MultiStep(epochs=[], decay_factor=1.0),
        l2_regularization=0.0,
        max_grad_norm=None,
        spec=Spec(
            obs_shapes=SHAPES,
            goal_shapes={},
            ac_dim=7,
            frame_stack=1,
            seq_length=1,
            total_steps=1,
            seed=0,
        ),
        device=CPU,
    )


def observations(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=(n, *s)).astype(np.float32) for k, s in SHAPES.items()}


@pytest.mark.parametrize("threads", [1, 2])
def test_an_action_does_not_depend_on_who_else_asks(threads: int) -> None:
    """Bit for bit, for any number of environments in any order, noise included."""
    policy = Policy(algo(), None, None)
    n = 2 * ROWS + 3
    obs = observations(n)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:

        def act(envs: list[int]) -> np.ndarray:
            for env in envs:
                policy.reset(env, seed=100 + env)
            return policy.act({k: v[envs] for k, v in obs.items()}, envs)

        alone = np.stack([act([env])[0] for env in range(n)])
        for count in (2, 3, 5, ROWS, ROWS + 1, n):
            for start in {0, min(1, n - count), n - count}:
                envs = list(range(start, start + count))[::-1]
                assert np.array_equal(act(envs), alone[envs])
    finally:
        torch.set_num_threads(before)
    assert len(np.unique(alone[:, 0])) == n


def test_episodes_repeat_by_seed() -> None:
    policy, obs = Policy(algo(), None, None), observations(1)

    def two_steps(seed: int) -> list[np.ndarray]:
        policy.reset(0, seed)
        return [policy.act(obs, [0]) for _ in range(2)]

    first, again, other = two_steps(3), two_steps(3), two_steps(4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, other)


def test_observations_are_normalised_and_actions_restored() -> None:
    plain = algo()
    obs_stats = {"object": {"offset": torch.full((1, 10), 0.5), "scale": torch.full((1, 10), 2.0)}}
    action_stats = {"offset": torch.full((1, 7), 3.0), "scale": torch.full((1, 7), 10.0)}
    raw = observations(2)
    scaled = {**raw, "object": (raw["object"] - 0.5) / 2.0}
    a, b = Policy(plain, obs_stats, action_stats), Policy(plain, None, None)
    for policy in (a, b):
        for env in (0, 1):
            policy.reset(env, env)
    expected = b.act(scaled, [0, 1]) * 10.0 + 3.0
    np.testing.assert_allclose(a.act(raw, [0, 1]), expected, rtol=1e-5)


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Path:
    monkeypatch.chdir(tmp_path)
    normalised = ["dataset.normalize_obs=true", "dataset.normalize_actions=min_max"]
    outcome = run_here([*TINY, *normalised, "hydra.run.dir=run"], monkeypatch, capfd)
    assert outcome.code == 0, outcome.text
    return tmp_path / "run" / "checkpoints" / "best.pt"


def test_a_checkpoint_becomes_a_policy(trained: Path) -> None:
    policy = Policy.load(trained)
    assert policy.obs_stats is not None
    assert policy.action_stats is not None
    assert policy.env_args is not None
    assert policy.env_args["env_name"] == "Lift"
    policy.reset(0, seed=1)
    shapes = policy.algo.spec.obs_shapes
    action = policy.act({k: np.zeros((1, *s), np.float32) for k, s in shapes.items()}, [0])
    assert action.shape == (1, 7)
    assert np.isfinite(action).all()


def test_a_checkpoint_cannot_choose_code(trained: Path) -> None:
    content: dict[str, Any] = checkpoint.load(trained)
    content["config"]["algo"]["head"]["_target_"] = "my_lab.heads.Head"
    checkpoint.save(trained, {k: v for k, v in content.items() if k != "format"})
    with pytest.raises(CheckpointError, match=r"algo\.head\._target_ .* trust=\[my_lab"):
        Policy.load(trained)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = checkpoint.load(path)
    change(content)
    checkpoint.save(path, {k: v for k, v in content.items() if k != "format"})


def widen(content: dict[str, Any]) -> None:
    content["spec"]["ac_dim"] = 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("config"), "not the checkpoint of a run: it has no `config`; give one"),
        (lambda c: c.update(config=3), "it has no `config.algo`"),
        (lambda c: c["config"].pop("rollout"), "it has no `config.rollout`; give one"),
        (lambda c: c["config"]["algo"].update(lr="fast"), "algo.lr: 'fast' .* is not a number"),
        (widen, "do not fit .*size mismatch for actor.decoder.*changed after it was written"),
        (lambda c: c["algo"].pop("nets"), "do not fit .*KeyError: 'nets'"),
        (lambda c: c["algo"]["nets"].popitem(), "do not fit .*Missing key"),
        (lambda c: c["spec"].pop("seed"), "do not fit .*'seed'"),
        (lambda c: c.update(spec=None), "do not fit .*TypeError"),
    ],
)
def test_a_checkpoint_that_cannot_act_is_refused(
    trained: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(trained, change)
    with pytest.raises(CheckpointError, match=f"(?s){said}") as error:
        Policy.load(trained)
    assert str(trained) in str(error.value)


def test_the_device_is_the_runs_unless_told(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def device(name: str) -> torch.device:
        asked.append(name)
        return CPU

    monkeypatch.setattr("rmexp.build.device", device)
    rewrite(trained, lambda content: content["config"].update(device="cuda:3"))
    Policy.load(trained)
    Policy.load(trained, device="auto")
    assert asked == ["cuda:3", "auto"]


def test_a_foreign_checkpoint_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    checkpoint.save(path, {})
    with pytest.raises(CheckpointError, match=r"foreign\.pt: .* no `config`, `spec`, `env_args`"):
        Policy.load(path)
