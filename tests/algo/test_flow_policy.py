"""Flow matching: its target by hand, its paths, and what it promises when acting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmexp.algo.flow_policy import FlowPolicy
from rmexp.algo.optim import Cosine
from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.policy import ROWS, Policy
from tests.algo.episodes_check import check_episodes_are_their_own
from tests.algo.golden_case import CPU, LIFT, encoding, spec
from tests.algo.test_diffusion_policy import A, B, batch, frames, transformer, unet


def policy(**changes: Any) -> FlowPolicy:
    seed = changes.pop("seed", 0)
    values: dict[str, Any] = {
        "encoder": encoding(),
        "backbone": unet(),
        "time_distribution": "logit_normal",
        "logit_mean": 0.0,
        "logit_std": 1.0,
        "time_scale": 100.0,
        "num_inference_steps": 4,
        "obs_horizon": 2,
        "pred_horizon": 8,
        "action_horizon": 4,
        "frame_stack": 2,
        "seq_length": 8,
        "ema_power": 0.75,
        "ema_max_decay": 0.9999,
        "optimizer": "adamw",
        "lr": 1e-3,
        "lr_schedule": Cosine(warmup_steps=2, num_cycles=0.5),
        "l2_regularization": 1e-6,
        "max_grad_norm": None,
        "spec": spec(frame_stack=2, seq_length=8, total_steps=100, seed=seed),
        "device": CPU,
        **changes,
    }
    return FlowPolicy(**values)


def step(algo: FlowPolicy, seed: int, validate: bool = False) -> dict[str, Tensor]:
    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch(seed)))
    info = algo.train_on_batch(ready, epoch=1, validate=validate)
    if not validate:
        algo.on_gradient_step()
    return info


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_the_loss_is_that_of_straight_paths(times: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-computed: mean |v((1 - t) noise + t actions, t) - (actions - noise)|^2."""
    algo = policy(time_distribution=times, logit_mean=-0.5, logit_std=0.7)
    seen: list[Tensor] = []

    def half(x: Tensor, time: Tensor, features: Tensor) -> Tensor:
        seen.append(time)
        return 0.5 * x

    monkeypatch.setattr(algo.actor["velocity"], "forward", half)
    draws = SeededDraws(0, CPU)
    draws.load_state_dict(algo.draws["valid"].state_dict())
    loss = step(algo, 1, validate=True)["loss"]

    actions, noise = batch(1)["actions"][:, :8], draws.randn((B, 8, A))
    if times == "uniform":
        t = draws.rand((B,))
    else:
        t = 1 / (1 + torch.exp(-(-0.5 + 0.7 * draws.randn((B,)))))
    torch.testing.assert_close(seen[0], 100.0 * t)
    x = noise + t[:, None, None] * (actions - noise)
    torch.testing.assert_close(loss, (0.5 * x - (actions - noise)).square().mean())


def test_times_are_distributed_as_asked() -> None:
    draws = SeededDraws(0, CPU)
    uniform = policy(time_distribution="uniform").draw_times(draws, 20_000)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)
    normal = policy(logit_mean=1.0, logit_std=0.5).draw_times(draws, 20_000)
    logits = torch.logit(normal)
    assert float(logits.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_euler_steps_follow_a_straight_path(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    algo = policy(num_inference_steps=steps)
    plan = torch.rand(3, 8, A) * 2 - 1
    times: list[float] = []

    def towards(x: Tensor, time: Tensor, features: Tensor) -> Tensor:
        times.append(float(time[0]))
        return (plan - x) / (1.0 - time[:, None, None] / 100.0)

    monkeypatch.setattr(algo.ema.average.get_submodule("velocity"), "forward", towards)
    torch.testing.assert_close(algo.sample(frames(3), SeededDraws(0, CPU)), plan)
    np.testing.assert_allclose(times, [100.0 * i / steps for i in range(steps)], rtol=1e-6)


@pytest.mark.parametrize(
    "backbone", [unet(), transformer(dropout=0.0)], ids=["unet", "transformer"]
)
def test_what_is_shown_is_done(backbone: Callable[..., nn.Module]) -> None:
    """The right direction is learnt: samples come nearer to what was demonstrated."""
    algo = policy(backbone=backbone, lr=5e-3, num_inference_steps=10)
    shown = torch.linspace(-0.9, 0.9, 8)[:, None].expand(8, A)
    ready = algo.process_batch_for_training(batch(0))
    ready["actions"] = shown.expand(B, 8, A)

    def distance() -> float:
        algo.set_eval()
        done = algo.sample(ready["obs"], SeededDraws(0, CPU))
        algo.set_train()
        return float((done - shown).abs().mean())

    before = distance()
    for _ in range(100):
        algo.train_on_batch(ready, epoch=1)
        algo.on_gradient_step()
    assert distance() < 0.8 * before


def test_state_survives_bit_for_bit() -> None:
    whole, first = policy(lr=1e-2), policy(lr=1e-2)
    first.nets.load_state_dict(whole.nets.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = policy(lr=1e-2, seed=9)
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for (name, x), y in zip(
        whole.nets.state_dict().items(), second.nets.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), name
    assert int(second.ema.updates) == 6


def test_acting_executes_the_plan_from_the_present_on(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = policy()
    plans = torch.arange(2 * 8 * A, dtype=torch.float32).view(2, 8, A)
    monkeypatch.setattr(algo, "sample", lambda obs, draws: plans)
    executed = [algo.get_action(frames(2)) for _ in range(5)]
    for i, index in enumerate((1, 2, 3, 4, 1)):
        assert torch.equal(executed[i], plans[:, index])


@pytest.mark.parametrize("backbone", [unet(), transformer()], ids=["unet", "transformer"])
def test_an_episode_is_its_own(backbone: Callable[..., nn.Module]) -> None:
    check_episodes_are_their_own(Policy(policy(backbone=backbone), None, None), count=ROWS + 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_inference_steps": 0}, r"algo\.num_inference_steps=0"),
        ({"obs_horizon": 1}, r"algo\.obs_horizon=1, algo\.frame_stack=2"),
        ({"action_horizon": 9}, r"algo\.action_horizon=9"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy(**changes)


def test_what_is_logged() -> None:
    algo = policy()
    info = algo.log_info(step(algo, 0))
    assert list(info) == ["loss", "actor_grad_norm", "optimizer/actor_lr"]
    assert set(info) - set(algo.log_info(step(algo, 0, validate=True))) == {"actor_grad_norm"}
    assert {k: tuple(v.shape) for k, v in frames(1).items()} == {
        k: (1, 2, *s) for k, s in LIFT.items()
    }
