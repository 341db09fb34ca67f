"""Diffusion Policy against the reference, its published constants, and its own promises.

Our names of the reference's weights: `policy.noise_pred_net.` is `denoiser.`; `.block.` and the
`.conv` of a change of resolution are left out; `cond_encoder.1` is `cond_encoder`. The reference's
acting takes an `ema` copy of all of them, ours is `nets["actor_ema"].average`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmexp.algo.diffusion_policy import DiffusionPolicy
from rmexp.algo.optim import EMA, Cosine
from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.diffusion_transformer import DiffusionTransformer
from rmexp.nets.noise_schedules import DDIM, DDPM, NoiseSchedule
from rmexp.nets.unet import UNet
from rmexp.policy import ROWS, Policy
from tests.algo.episodes_check import check_episodes_are_their_own
from tests.algo.golden_case import CPU, LIFT, GoldenCase, encoding, same_metrics, spec

B, T, A = 5, 9, 7
PLAN: dict[str, Any] = {"obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4}
SCHEDULE: dict[str, Any] = {
    "num_train_steps": 100,
    "num_inference_steps": 100,
    "beta_schedule": "squared_cosine",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction": "noise",
    "clip_sample": True,
}


def ddpm(**changes: Any) -> DDPM:
    return DDPM(**{**SCHEDULE, **changes})


def ddim(**changes: Any) -> DDIM:
    few: dict[str, Any] = {
        "num_inference_steps": 10,
        "final_signal_is_one": True,
        "steps_offset": 0,
    }
    return DDIM(**{**SCHEDULE, **few, **changes})


def unet(**changes: Any) -> partial[UNet]:
    small = {"down_dims": [16, 24], "kernel_size": 3, "n_groups": 4, "step_embed_dim": 16}
    return partial(UNet, **{**small, **changes})


def transformer(**changes: Any) -> partial[DiffusionTransformer]:
    small = {
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "embed_dropout": 0.0,
        "dropout": 0.1,
        "causal": True,
    }
    return partial(DiffusionTransformer, **{**small, **changes})


def policy(**changes: Any) -> DiffusionPolicy:
    seed = changes.pop("seed", 0)
    values: dict[str, Any] = {
        "encoder": encoding(),
        "backbone": unet(),
        "noise_schedule": ddpm(),
        **PLAN,
        "ema_power": 0.75,
        "ema_max_decay": 0.9999,
        "optimizer": "adamw",
        "lr": 1e-4,
        "lr_schedule": Cosine(warmup_steps=500, num_cycles=0.5),
        "l2_regularization": 1e-6,
        "max_grad_norm": None,
        "device": CPU,
        **changes,
    }
    values.setdefault("frame_stack", values["obs_horizon"])
    values.setdefault("seq_length", values["pred_horizon"])
    values.setdefault(
        "spec",
        spec(
            frame_stack=values["obs_horizon"],
            seq_length=values["pred_horizon"],
            total_steps=2000,
            seed=seed,
        ),
    )
    return DiffusionPolicy(**values)


def batch(seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    obs = {k: torch.randn(B, T, *s, generator=g) for k, s in LIFT.items()}
    return {"obs": obs, "actions": torch.rand(B, T, A, generator=g) * 2 - 1}


def step(algo: DiffusionPolicy, seed: int, validate: bool = False) -> dict[str, Tensor]:
    ready = algo.postprocess_batch_for_training(algo.process_batch_for_training(batch(seed)))
    info = algo.train_on_batch(ready, epoch=1, validate=validate)
    if not validate:
        algo.on_gradient_step()
    return info


def frames(count: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(count, 2, *s, generator=g) for k, s in LIFT.items()}


# The reference.


@pytest.fixture
def case(golden: Path) -> GoldenCase:
    def build(config: dict[str, Any], train: dict[str, Any]) -> DiffusionPolicy:
        horizon = config["horizon"]
        return policy(  # the reference builds its network of other sizes than it records
            obs_horizon=horizon["observation_horizon"],
            pred_horizon=horizon["prediction_horizon"],
            action_horizon=horizon["action_horizon"],
            frame_stack=train["frame_stack"],
            seq_length=train["seq_length"],
        )

    def rename(name: str) -> str:
        name = name.replace("policy.noise_pred_net.", "denoiser.").replace(".block.", ".")
        name = name.replace("cond_encoder.1", "cond_encoder")
        return re.sub(r"((?:up|down)_modules\.\d+\.2)\.conv", r"\1", name)

    return GoldenCase(golden, "diffusion_policy", build, rename)


def test_losses_and_weights_equal_the_references(case: GoldenCase) -> None:
    rows = case.train()
    assert case.largest_error() < 1e-5
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        assert same_metrics(ours, theirs) == 2
        assert ours["actor_grad_norm"] ** 2 == pytest.approx(theirs["Policy_Grad_Norms"], rel=1e-4)
    assert same_metrics(case.validate(), case.record["validate_log_info"]) == 2


def test_the_default_network_has_the_references_size() -> None:
    with torch.device("meta"):
        sizes: dict[str, Any] = {
            "down_dims": [256, 512, 1024],
            "kernel_size": 5,
            "step_embed_dim": 256,
        }
        net = UNet(**sizes, n_groups=8, ac_dim=7, obs_dim=19, obs_horizon=2, pred_horizon=16)
    assert sum(p.numel() for p in net.parameters()) == 65_763_591


def test_the_network_has_the_sizes_that_are_asked_for() -> None:
    sizes = {"ac_dim": 7, "obs_dim": 19, "obs_horizon": 2, "pred_horizon": 8}
    counts = {
        sum(p.numel() for p in unet(**changes)(**sizes).parameters())
        for changes in (
            {},
            {"down_dims": [16, 24, 32]},
            {"kernel_size": 5},
            {"step_embed_dim": 8},
        )
    }
    assert len(counts) == 4


# Training.


@pytest.mark.parametrize("prediction", ["noise", "actions", "velocity"])
def test_the_loss_is_that_of_the_paper(prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand-computed: mean (eps - eps_theta(sqrt(abar) x + sqrt(1 - abar) eps, k))^2.

    Each row of the batch has a k of its own. Other targets: x, or the velocity.
    """
    algo = policy(noise_schedule=ddpm(prediction=prediction))
    seen: dict[str, Tensor] = {}

    def half(noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        seen.update(noisy=noisy, steps=steps, features=features)
        return 0.5 * noisy

    monkeypatch.setattr(algo.actor["denoiser"], "forward", half)
    draws = SeededDraws(0, CPU)
    draws.load_state_dict(algo.draws["valid"].state_dict())
    loss = step(algo, 1, validate=True)["loss"]

    raw = batch(1)
    noise, k = draws.randn((B, 8, A)), draws.randint(0, 100, (B,))
    cosine = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = torch.tensor(np.cumprod(1 - np.minimum(1 - cosine[1:] / cosine[:-1], 0.999)))[k]
    abar = abar[:, None, None]
    actions = raw["actions"][:, :8]
    noisy = abar.sqrt() * actions + (1 - abar).sqrt() * noise
    velocity = abar.sqrt() * noise - (1 - abar).sqrt() * actions
    target = {"noise": noise, "actions": actions, "velocity": velocity}[prediction]
    assert len(k.unique()) > 1
    torch.testing.assert_close(seen["noisy"].double(), noisy)
    assert torch.equal(seen["steps"], k)
    expected = torch.cat([raw["obs"][key][:, :2] for key in sorted(LIFT)], -1)
    assert torch.equal(seen["features"], expected)
    torch.testing.assert_close(loss.double(), (target - 0.5 * noisy).square().mean())


@pytest.mark.parametrize("backbone", [unet(), transformer()], ids=["unet", "transformer"])
def test_what_is_shown_is_done(backbone: Callable[..., nn.Module]) -> None:
    """Demonstrations that always do the same are imitated, by the averaged weights."""
    algo = policy(
        backbone=backbone,
        lr=3e-3,
        lr_schedule=Cosine(warmup_steps=0, num_cycles=0.5),
        noise_schedule=ddim(num_inference_steps=5, prediction="actions"),
        spec=spec(frame_stack=2, seq_length=8, total_steps=60),
    )
    shown = torch.linspace(-0.9, 0.9, 8)[:, None].expand(8, A)
    ready = algo.process_batch_for_training(batch(0))
    ready["actions"] = shown.expand(B, 8, A)
    losses: list[float] = []
    for _ in range(60):
        losses.append(float(algo.train_on_batch(ready, epoch=1)["loss"].detach()))
        algo.on_gradient_step()
    assert losses[-1] < 0.2 * losses[0]
    algo.set_eval()
    done = algo.sample(ready["obs"], SeededDraws(0, CPU))
    assert float((done - shown).abs().mean()) < 0.15


def test_validation_leaves_no_trace_in_training() -> None:
    a, b = policy(), policy()
    b.nets.load_state_dict(a.nets.state_dict())
    for i in range(3):
        step(a, i)
        step(b, i)
        b.set_eval()
        with torch.no_grad():
            step(b, i + 10, validate=True)
        b.set_train()
    for x, y in zip(a.nets.state_dict().values(), b.nets.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_state_survives_bit_for_bit() -> None:
    """Weights, their average and its count, optimiser, schedule and draws."""
    whole, first = policy(lr=1e-2), policy(lr=1e-2)
    first.nets.load_state_dict(whole.nets.state_dict())
    for i in range(8):
        step(whole, i)
    for i in range(5):
        step(first, i)
    second = policy(lr=1e-2, seed=9)
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    assert int(second.ema.updates) == 5
    for i in range(5, 8):
        step(second, i)
    for (name, x), y in zip(
        whole.nets.state_dict().items(), second.nets.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), name
    assert whole.optimizers["actor"].lr == second.optimizers["actor"].lr > 0


def test_the_average_warms_up() -> None:
    """Decay 0, 0, 1 - 2^-0.75, 1 - 3^-0.75, ...; buffers are copied; nothing in it is trained."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(net, power=0.75, max_decay=0.5)
    assert not any(p.requires_grad for p in ema.parameters())
    weight = next(net.parameters())
    expected = weight.detach().clone()
    for decay in (0.0, 0.0, 1 - 2**-0.75, 0.5, 0.5):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter)
            net(torch.randn(5, 3))
        ema.update(net)
        expected = decay * expected + (1 - decay) * weight.detach()
        average = ema.average.state_dict()
        torch.testing.assert_close(average["0.weight"], expected)
        assert torch.equal(average["1.running_mean"], net.state_dict()["1.running_mean"])
    assert int(ema.updates) == 5


# Acting.


def test_acting_executes_the_plan_from_the_present_on(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = policy()
    plans = torch.arange(2 * 8 * A, dtype=torch.float32).view(2, 8, A)
    calls: list[int] = []

    def sample(obs: Any, draws: Any) -> Tensor:
        calls.append(len(obs["object"]))
        return plans + 1000.0 * len(calls)

    monkeypatch.setattr(algo, "sample", sample)
    executed = [algo.get_action(frames(2)) for _ in range(5)]
    for i in range(4):  # indices obs_horizon - 1 .. obs_horizon - 1 + action_horizon
        assert torch.equal(executed[i], plans[:, 1 + i] + 1000.0)
    assert torch.equal(executed[4], plans[:, 1] + 2000.0)
    assert calls == [2, 2]
    algo.reset([1])
    following = algo.get_action(frames(2))
    assert torch.equal(following[0], plans[0, 2] + 2000.0)
    assert torch.equal(following[1], plans[1, 1] + 3000.0)


def test_acting_uses_the_averaged_weights() -> None:
    algo = policy(noise_schedule=ddim(num_inference_steps=3))
    obs = frames(3)
    before = algo.sample(obs, SeededDraws(0, CPU))
    with torch.no_grad():
        for parameter in algo.actor.parameters():
            parameter.add_(1.0)
    assert torch.equal(algo.sample(obs, SeededDraws(0, CPU)), before)
    with torch.no_grad():
        for parameter in algo.ema.average.parameters():
            parameter.add_(0.1)
    assert not torch.equal(algo.sample(obs, SeededDraws(0, CPU)), before)


@pytest.mark.parametrize("noise_schedule", [ddpm(), ddim()], ids=["ddpm", "ddim"])
def test_a_perfect_network_recovers_the_plan(
    noise_schedule: NoiseSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = policy(noise_schedule=noise_schedule)
    plan = torch.rand(3, 8, A) * 2 - 1

    def noise_of(noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        abar = noise_schedule.alpha_bar[int(steps[0])]
        return (noisy - abar**0.5 * plan) / (1 - abar) ** 0.5

    monkeypatch.setattr(algo.ema.average.get_submodule("denoiser"), "forward", noise_of)
    torch.testing.assert_close(algo.sample(frames(3), SeededDraws(0, CPU)), plan, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "backbone",
    [unet(), unet(down_dims=[8, 24], step_embed_dim=6), transformer()],
    ids=["unet", "odd unet", "transformer"],
)
@pytest.mark.parametrize(
    "noise_schedule",
    [ddpm(num_train_steps=12, num_inference_steps=12), ddim(num_inference_steps=5)],
    ids=["ddpm", "ddim"],
)
def test_an_episode_is_its_own(
    backbone: Callable[..., nn.Module], noise_schedule: NoiseSchedule
) -> None:
    """Bit for bit, for environments that begin at different times, in any order and number."""
    algo = policy(backbone=backbone, noise_schedule=noise_schedule)
    check_episodes_are_their_own(Policy(algo, None, None), count=ROWS + 3)


def test_noise_is_drawn_by_those_who_plan_alone() -> None:
    algo = policy(noise_schedule=ddim(num_inference_steps=2))
    sources = [SeededDraws(i, CPU) for i in range(3)]

    def states() -> list[Tensor]:
        return [s.state_dict()["generator"].clone() for s in sources]

    algo.get_action(frames(3), draws=EpisodeDraws(sources, CPU))
    algo.reset([1])
    before = states()
    algo.get_action(frames(3), draws=EpisodeDraws(sources, CPU))
    changed = [not torch.equal(x, y) for x, y in zip(before, states(), strict=True)]
    assert changed == [False, True, False]


def test_padding_rows_are_not_remembered() -> None:
    algo = policy(noise_schedule=ddim(num_inference_steps=2))
    actions = algo.get_action(frames(3), envs=[4, -1, -2])
    assert actions.shape == (3, A)
    assert set(algo.chunks.queues._plans) == {4}


def test_an_action_looks_at_nothing_later_than_itself() -> None:
    net = transformer(dropout=0.0)(ac_dim=A, obs_dim=3, obs_horizon=2, pred_horizon=8)
    noisy, steps, features = torch.randn(2, 8, A), torch.tensor([3, 5]), torch.randn(2, 2, 3)
    before = net(noisy, steps, features)
    later = noisy.clone()
    later[:, 5:] += 1.0
    changed = (net(later, steps, features) != before).any(-1).any(0)
    assert changed.tolist() == [False] * 5 + [True] * 3
    present = features.clone()
    present[:, 1] += 1.0
    changed = (net(noisy, steps, present) != before).any(-1).any(0)
    assert changed.tolist() == [False] + [True] * 7
    assert (net(noisy, steps + 1, features) != before).any(-1).all()


# Configuration.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_stack": 3}, r"algo\.obs_horizon=2, algo\.frame_stack=3, dataset\.frame_stack=2"),
        ({"spec": spec(frame_stack=1, seq_length=8)}, r"dataset\.frame_stack=1"),
        ({"spec": spec(frame_stack=2, seq_length=3)}, r"algo\.seq_length=8, dataset\.seq_length=3"),
        ({"seq_length": 6, "spec": spec(frame_stack=2, seq_length=6)}, r"7 or more"),
        ({"action_horizon": 8}, r"algo\.action_horizon=8: .*give 1 to 7"),
        ({"action_horizon": 0}, r"algo\.action_horizon=0"),
        ({"pred_horizon": 7}, r"algo\.pred_horizon=7 must be a multiple of 2"),
        ({"backbone": unet(n_groups=7)}, r"algo\.backbone\.n_groups=7"),
        ({"backbone": unet(kernel_size=4)}, r"algo\.backbone\.kernel_size=4"),
        ({"backbone": unet(down_dims=[12, 24])}, r"12, must be a multiple of 8"),
        ({"backbone": unet(step_embed_dim=5)}, r"an embedding of 5"),
        ({"backbone": transformer(num_heads=3)}, r"num_heads=3"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy(**changes)


def test_a_plan_may_look_back_at_nothing() -> None:
    algo = policy(obs_horizon=1, pred_horizon=4, action_horizon=4)
    assert algo.get_action({k: torch.randn(3, *s) for k, s in LIFT.items()}).shape == (3, A)
