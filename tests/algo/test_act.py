"""ACT: its objective by hand, its ensembles, and what it promises when acting."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rmexp.algo.act import ACT
from rmexp.algo.optim import MultiStep
from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.policy import ROWS, Policy
from tests.algo.episodes_check import check_episodes_are_their_own
from tests.algo.golden_case import CPU, LIFT, encoding, spec

B, F, H, A, Z = 5, 2, 6, 7, 3


def policy(**changes: Any) -> ACT:
    seed = changes.pop("seed", 0)
    values: dict[str, Any] = {
        "encoder": encoding(),
        "dim": 16,
        "num_heads": 2,
        "feedforward_dim": 24,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "latent_dim": Z,
        "dropout": 0.1,
        "kl_weight": 10.0,
        "frame_stack": F,
        "seq_length": H,
        "action_horizon": 1,
        "temporal_ensemble": 0.1,
        "optimizer": "adamw",
        "lr": 1e-3,
        "lr_schedule": MultiStep(epochs=[], decay_factor=1.0),
        "l2_regularization": 1e-4,
        "max_grad_norm": None,
        "spec": spec(frame_stack=F, seq_length=H, seed=seed),
        "device": CPU,
        **changes,
    }
    return ACT(**values)


def batch(seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    time = F - 1 + H
    pad_mask = torch.ones(B, time, 1, dtype=torch.bool)
    pad_mask[1, 0] = False  # a past that never was
    pad_mask[2, 4:] = False  # an episode that ends
    return {
        "obs": {k: torch.randn(B, time, *s, generator=g) for k, s in LIFT.items()},
        "actions": torch.rand(B, time, A, generator=g) * 2 - 1,
        "pad_mask": pad_mask,
    }


def step(algo: ACT, seed: int, validate: bool = False) -> dict[str, Tensor]:
    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch(seed)))
    info = algo.train_on_batch(ready, epoch=1, validate=validate)
    if not validate:
        algo.on_gradient_step()
    return info


def frames(count: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(count, F, *s, generator=g) for k, s in LIFT.items()}


def test_the_objective_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-computed: L1 of the actions that are not padding + weight * KL(q || N(0, I))."""
    algo = policy()
    mean, log_variance = torch.randn(B, Z), torch.randn(B, Z)
    styles: list[Tensor] = []

    def decode(features: Tensor, z: Tensor) -> Tensor:
        styles.append(z)
        return torch.full((B, H, A), 0.25)

    monkeypatch.setattr(algo.actor["style"], "forward", lambda *_: (mean, log_variance))
    monkeypatch.setattr(algo.actor["decoder"], "forward", decode)
    draws = SeededDraws(0, CPU)
    draws.load_state_dict(algo.draws["valid"].state_dict())
    info = step(algo, 1, validate=True)

    raw = batch(1)
    real = raw["pad_mask"][:, F - 1 :].expand(B, H, A)
    expected = (raw["actions"][:, F - 1 :] - 0.25).abs()[real].mean()
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(q, prior).sum(-1).mean()
    torch.testing.assert_close(info["l1_loss"], expected)
    torch.testing.assert_close(info["kl_loss"], kl)
    torch.testing.assert_close(info["loss"], expected + 10.0 * kl)
    torch.testing.assert_close(styles[0], mean + q.stddev * draws.randn((B, Z)))


def test_padding_is_not_seen() -> None:
    algo = policy()
    algo.set_eval()
    ready = algo.process_batch_for_training(batch(0))
    other = {**ready, "actions": ready["actions"].clone()}
    other["actions"][2, 3:] += 1.0  # real is F - 1 frames shorter than the mask of the window
    features = algo.actor["encoder"](ready["obs"])
    a = algo.actor["style"](features, ready["actions"], ready["real"])[0]
    b = algo.actor["style"](features, other["actions"], ready["real"])[0]
    assert torch.equal(a, b)
    other["actions"][2, 2] += 1.0
    c = algo.actor["style"](features, other["actions"], ready["real"])[0]
    assert (c != b).any(-1).tolist() == [False, False, True, False, False]


def test_a_batch_without_a_mask_is_all_real() -> None:
    algo = policy()
    raw = batch(0)
    del raw["pad_mask"]
    assert bool(algo.process_batch_for_training(raw)["real"].all())


def test_the_decoder_uses_observations_and_style() -> None:
    algo = policy()
    algo.set_eval()
    features, z = algo.actor["encoder"](frames(2)), torch.randn(2, Z)
    chunk = algo.actor["decoder"](features, z)
    assert chunk.shape == (2, H, A)
    assert (algo.actor["decoder"](features, z + 1.0) != chunk).any()
    for frame in range(F):
        other = features.clone()
        other[:, frame] += 1.0
        assert (algo.actor["decoder"](other, z) != chunk).any()
    assert len({tuple(row.tolist()) for row in chunk[0]}) == H


def test_what_is_shown_is_done() -> None:
    algo = policy(lr=3e-3, dropout=0.0)
    ready = algo.process_batch_for_training(batch(0))
    losses = [float(algo.train_on_batch(ready, epoch=1)["l1_loss"].detach()) for _ in range(60)]
    algo.set_eval()
    done = algo.plan(ready["obs"])
    error = ((done - ready["actions"]).abs().mean(-1) * ready["real"]).sum() / ready["real"].sum()
    assert float(error) < 0.6 * losses[0]


def test_chunks_are_averaged_with_exponential_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """w_i = exp(-m i) with i = 0 for the oldest; only chunks that reach this step are left."""
    algo = policy()
    chunks = torch.randn(9, 2, H, A)
    now = iter(range(9))
    monkeypatch.setattr(algo, "plan", lambda obs: chunks[next(now)])
    for t in range(9):
        action = algo.get_action(frames(2))
        since = max(0, t - H + 1)
        weights = [math.exp(-0.1 * i) for i in range(t - since + 1)]
        said = [chunks[s][:, t - s] for s in range(since, t + 1)]
        expected = sum(w * a for w, a in zip(weights, said, strict=True)) / sum(weights)
        torch.testing.assert_close(action, expected)


def test_ensembles_are_forgotten_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = policy()
    chunks = torch.randn(3, 2, H, A)
    now = iter(range(3))
    monkeypatch.setattr(algo, "plan", lambda obs: chunks[next(now)])
    algo.get_action(frames(2), envs=[4, 7])
    algo.reset([7])
    action = algo.get_action(frames(2), envs=[4, 7])
    assert torch.equal(action[1], chunks[1][1, 0])
    assert not torch.equal(action[0], chunks[1][0, 0])
    algo.reset()
    assert torch.equal(algo.get_action(frames(2), envs=[4, -1]), chunks[2][:, 0])


def test_without_ensembles_a_chunk_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = policy(temporal_ensemble=None, action_horizon=3)
    chunks = torch.randn(2, 2, H, A)
    now = iter(range(2))
    monkeypatch.setattr(algo, "plan", lambda obs: chunks[next(now)])
    executed = [algo.get_action(frames(2)) for _ in range(4)]
    for t in range(3):
        assert torch.equal(executed[t], chunks[0][:, t])
    assert torch.equal(executed[3], chunks[1][:, 0])


@pytest.mark.parametrize(
    "changes",
    [{}, {"temporal_ensemble": None, "action_horizon": 4}],
    ids=["ensemble", "chunks"],
)
def test_an_episode_is_its_own(changes: dict[str, Any]) -> None:
    check_episodes_are_their_own(Policy(policy(**changes), None, None), count=ROWS + 3)


def test_state_survives_bit_for_bit() -> None:
    whole, first = policy(dropout=0.0), policy(dropout=0.0)
    first.nets.load_state_dict(whole.nets.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = policy(dropout=0.0, seed=9)
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for (name, x), y in zip(
        whole.nets.state_dict().items(), second.nets.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), name


def test_what_is_logged() -> None:
    algo = policy()
    assert list(algo.log_info(step(algo, 0))) == [
        "loss",
        "l1_loss",
        "kl_loss",
        "actor_grad_norm",
        "optimizer/actor_lr",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_stack": 1}, r"algo\.frame_stack=1, .*dataset\.frame_stack=2"),
        ({"seq_length": 5}, r"algo\.seq_length=5, .*dataset\.seq_length=6"),
        ({"action_horizon": 7}, r"algo\.action_horizon=7"),
        ({"action_horizon": 2}, r"algo\.temporal_ensemble=0\.1 plans at every step"),
        ({"num_heads": 3}, r"num_heads=3"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy(**changes)
