"""BC-Transformer against the reference, and what each of its steps sees and answers."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.algo.bc_transformer import BCTransformer
from rmexp.algo.optim import MultiStep
from rmexp.errors import ConfigError
from rmexp.nets.heads import GMM, Deterministic, Head
from rmexp.nets.transformer import sinusoids
from rmexp.policy import ROWS, Policy
from tests.algo.golden_case import CPU, LIFT, GoldenCase, encoding, same_metrics, spec

F = 3


def gmm(num_modes: int = 5, low_noise_eval: bool = True) -> GMM:
    return GMM(num_modes=num_modes, min_std=1e-4, low_noise_eval=low_noise_eval)


def deterministic() -> Deterministic:
    return Deterministic(l2_weight=1.0, l1_weight=0.0, cos_weight=0.0)


def bc_transformer(head: Head | None = None, **changes: Any) -> BCTransformer:
    values: dict[str, Any] = {
        "frame_stack": F,
        "seq_length": 1,
        "embed_dim": 24,
        "num_layers": 2,
        "num_heads": 3,
        "positions": "learned",
        "activation": "gelu",
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        "block_dropout": 0.0,
        "supervise_all_steps": False,
        "pred_future_acs": False,
        "encoder": encoding(),
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_schedule": MultiStep(epochs=[], decay_factor=1.0),
        "l2_regularization": 0.0,
        "max_grad_norm": None,
        "device": CPU,
    }
    values |= changes
    lengths = {key: values[key] for key in ("frame_stack", "seq_length")}
    values.setdefault("spec", spec(**lengths))
    return BCTransformer(head=head or deterministic(), **values)


def windows(batch: int = 5, time: int = F, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    obs = {k: torch.randn(batch, time, *s, generator=g) for k, s in LIFT.items()}
    return {"obs": obs, "actions": torch.rand(batch, time, 7, generator=g) * 2 - 1}


def test_the_parameter_count_is_the_references() -> None:
    algo = bc_transformer(gmm(), frame_stack=10, embed_dim=512, num_layers=6, num_heads=8)
    assert algo.num_parameters() == 18_960_971


BLOCK = {
    "attention.nets.qkv": "qkv",
    "attention.nets.output": "attended",
    "mlp.0": "wide",
    "mlp.2": "narrow",
    "ln1": "attention_norm",
    "ln2": "wide_norm",
}
OUTSIDE = {
    "nets.embed_encoder.": "embed.",
    "nets.embed_ln.": "embed_norm.",
    "nets.transformer.nets.output_ln.": "output_norm.",
    "nets.decoder.nets.": "decoder.",
    "params.embed_timestep": "positions.weight",
}


def rename(reference: str) -> str | None:
    """The masks, which are constants, have no counterpart."""
    name = reference.removeprefix("policy.")
    if name.endswith(".attention.mask"):
        return None
    inside = re.fullmatch(r"nets\.transformer\.nets\.transformer\.(\d+)\.nets\.(.+)\.(\w+)", name)
    if inside is not None:
        return f"blocks.{inside[1]}.{BLOCK[inside[2]]}.{inside[3]}"
    for theirs, ours in OUTSIDE.items():
        name = name.replace(theirs, ours)
    return name


def build(config: dict[str, Any], train: dict[str, Any]) -> BCTransformer:
    transformer = config["transformer"]
    assert transformer["context_length"] == train["frame_stack"]
    assert transformer["nn_parameter_for_timesteps"]
    return bc_transformer(
        gmm() if config["gmm"]["enabled"] else deterministic(),
        frame_stack=train["frame_stack"],
        seq_length=train["seq_length"],
        embed_dropout=transformer["emb_dropout"],
        attention_dropout=transformer["attn_dropout"],
        block_dropout=transformer["block_output_dropout"],
        **{
            key: transformer[key]
            for key in (
                "embed_dim",
                "num_layers",
                "num_heads",
                "activation",
                "supervise_all_steps",
                "pred_future_acs",
            )
        },
    )


@pytest.mark.parametrize("name", ["bc_transformer", "bc_transformer_gmm"])
def test_losses_and_weights_equal_the_references(golden: Path, name: str) -> None:
    GoldenCase(golden, name, build, rename).check()


@pytest.mark.parametrize("name", ["bc_transformer", "bc_transformer_gmm"])
def test_validation_equals_the_references(golden: Path, name: str) -> None:
    """With the mixture too: the reference's transformer is free of its low-noise defect."""
    case = GoldenCase(golden, name, build, rename)
    assert same_metrics(case.validate(), case.record["validate_log_info"]) >= 3


def test_a_step_sees_nothing_that_comes_after_it() -> None:
    actor = bc_transformer().actor
    obs = windows()["obs"]
    before = actor(obs)["action"]
    changed = {k: v.clone() for k, v in obs.items()}
    changed["object"][:, 1] += 1.0
    after = actor(changed)["action"]
    torch.testing.assert_close(after[:, 0], before[:, 0])
    for t in (1, 2):
        assert (after[:, t] - before[:, t]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("all_steps", "future", "seq_length", "expected"),
    [
        (False, False, 1, [F - 1]),
        (True, False, 1, [0, 1, 2]),
        (False, False, 4, [F - 1]),
        (True, False, 4, [0, 1, 2]),
        (True, True, F, [2, 3, 4]),
    ],
)
def test_which_actions_are_supervised(
    all_steps: bool, future: bool, seq_length: int, expected: list[int]
) -> None:
    algo = bc_transformer(
        supervise_all_steps=all_steps, pred_future_acs=future, seq_length=seq_length
    )
    batch = windows(time=F - 1 + seq_length)
    processed = algo.process_batch_for_training(batch)
    assert torch.equal(processed["actions"], batch["actions"][:, expected])
    for key, value in batch["obs"].items():
        assert torch.equal(processed["obs"][key], value[:, :F])

    with torch.no_grad():
        loss = algo.train_on_batch(processed, epoch=1, validate=True)["loss"]
        answered = torch.tanh(algo.actor(processed["obs"])["action"])[:, -len(expected) :]
    by_hand = (answered - batch["actions"][:, expected]).square().mean()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-6)


@pytest.mark.parametrize(("future", "present"), [(False, F - 1), (True, 0)])
def test_acting_takes_the_step_trained_on_the_present_action(future: bool, present: int) -> None:
    algo = bc_transformer(
        supervise_all_steps=True, pred_future_acs=future, seq_length=F if future else 1
    )
    obs = windows()["obs"]
    expected = torch.tanh(algo.actor(obs)["action"])[:, present]
    torch.testing.assert_close(algo.get_action(obs), expected)


def test_one_frame_is_a_window_too() -> None:
    algo = bc_transformer(frame_stack=1)
    obs = windows(time=1)["obs"]
    flat = {k: v[:, 0] for k, v in obs.items()}
    torch.testing.assert_close(algo.get_action(flat), torch.tanh(algo.actor(obs)["action"])[:, 0])


def test_sinusoids() -> None:
    table = sinusoids(4, 6)
    for t, i in np.ndindex(4, 3):
        angle = t / 10000 ** (2 * i / 6)
        assert float(table[t, 2 * i]) == pytest.approx(np.sin(angle), abs=1e-6)
        assert float(table[t, 2 * i + 1]) == pytest.approx(np.cos(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"positions": "table"}, 0),
        ({"positions": "sinusoidal"}, -F * 24),
        ({"activation": "geglu"}, 2 * (24 + 1) * 4 * 24),
    ],
)
def test_options_change_the_parameters(changes: dict[str, Any], more: int) -> None:
    plain = bc_transformer()
    algo = bc_transformer(**changes)
    assert algo.num_parameters() == plain.num_parameters() + more
    assert algo.actor.positions().shape[-2:] == (F, 24)
    info = algo.train_on_batch(algo.process_batch_for_training(windows()), epoch=1)
    assert torch.isfinite(info["loss"])


def test_dropout_is_for_training_alone() -> None:
    algo = bc_transformer(embed_dropout=0.5, attention_dropout=0.5, block_dropout=0.5)
    obs = windows()["obs"]
    algo.set_train()
    assert not torch.equal(algo.actor(obs)["action"], algo.actor(obs)["action"])
    algo.set_eval()
    assert torch.equal(algo.actor(obs)["action"], algo.actor(obs)["action"])


def test_an_episode_does_not_depend_on_who_else_acts() -> None:
    """Bit for bit; each episode's frames are its own."""
    policy = Policy(bc_transformer(gmm(num_modes=3, low_noise_eval=False)), None, None)
    n, steps = ROWS + 3, 4
    rng = np.random.default_rng(0)
    obs = {k: rng.normal(size=(steps, n, *s)).astype(np.float32) for k, s in LIFT.items()}

    def episodes(envs: list[int]) -> np.ndarray:
        for env in envs:
            policy.reset(env, seed=100 + env)
        return np.stack(
            [policy.act({k: v[t][envs] for k, v in obs.items()}, envs) for t in range(steps)], 1
        )

    alone = np.concatenate([episodes([env]) for env in range(n)])
    assert np.array_equal(episodes(list(range(n))[::-1]), alone[::-1])
    assert np.array_equal(episodes([5, 1, 8]), alone[[5, 1, 8]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": spec(frame_stack=2)}, r"algo\.frame_stack=3, dataset\.frame_stack=2"),
        (
            {"spec": spec(frame_stack=F, seq_length=2)},
            r"algo\.seq_length=1, dataset\.seq_length=2",
        ),
        ({"pred_future_acs": True, "seq_length": F}, "supervise_all_steps=true"),
        ({"pred_future_acs": True, "supervise_all_steps": True}, r"set algo\.seq_length=3"),
        ({"num_heads": 5}, r"algo\.embed_dim=24, algo\.num_heads=5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bc_transformer(**changes)


def test_state_survives_bit_for_bit() -> None:
    def step(algo: BCTransformer, i: int) -> None:
        torch.manual_seed(i)  # dropout draws from torch's own generator, which a checkpoint holds
        algo.set_train()
        algo.train_on_batch(algo.process_batch_for_training(windows(seed=i)), epoch=1)
        algo.on_gradient_step()

    options: dict[str, Any] = {"lr": 1e-2, "block_dropout": 0.3}
    whole, first = bc_transformer(gmm(), **options), bc_transformer(gmm(), **options)
    first.actor.load_state_dict(whole.actor.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = bc_transformer(gmm(), **options, spec=spec(frame_stack=F, seed=9))
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for a, b in zip(whole.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_blocks_start_as_in_the_reference() -> None:
    algo = bc_transformer(embed_dim=48)
    for name, parameter in algo.actor.blocks.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all()), name
        elif name.endswith("bias"):
            assert bool((parameter == 0).all()), name
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1), name
    assert bool((algo.actor.positions() == 0).all())
