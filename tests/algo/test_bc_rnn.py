"""BC-RNN against the reference, and how it remembers while it acts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.algo.bc_rnn import BCRNN
from rmexp.algo.optim import MultiStep
from rmexp.errors import ConfigError
from rmexp.nets.heads import GMM, Deterministic, Gaussian, Head
from rmexp.nets.recurrent import RecurrentActor
from rmexp.policy import ROWS, Policy
from tests.algo.golden_case import CPU, LIFT, GoldenCase, encoding, same_metrics, spec


def gmm(num_modes: int = 5, low_noise_eval: bool = True) -> GMM:
    return GMM(num_modes=num_modes, min_std=1e-4, low_noise_eval=low_noise_eval)


def deterministic() -> Deterministic:
    return Deterministic(l2_weight=1.0, l1_weight=0.0, cos_weight=0.0)


def bc_rnn(head: Head | None = None, **changes: Any) -> BCRNN:
    values: dict[str, Any] = {
        "rnn_type": "lstm",
        "hidden_dim": 13,
        "num_layers": 2,
        "seq_length": 3,
        "open_loop": False,
        "actor_layer_dims": [11],
        "encoder": encoding(),
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_schedule": MultiStep(epochs=[], decay_factor=1.0),
        "l2_regularization": 0.0,
        "max_grad_norm": None,
        "device": CPU,
    }
    values |= changes
    values.setdefault("spec", spec(seq_length=values["seq_length"]))
    return BCRNN(head=head or deterministic(), **values)


def windows(batch: int = 5, time: int = 3, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    obs = {k: torch.randn(batch, time, *s, generator=g) for k, s in LIFT.items()}
    return {"obs": obs, "actions": torch.rand(batch, time, 7, generator=g) * 2 - 1}


@pytest.mark.parametrize(
    ("head", "layer_dims", "count"),
    [
        (gmm(), [], 1_986_875),
        (gmm(), [1024, 1024], 3_493_899),
        (deterministic(), [1024, 1024], 3_424_199),
    ],
)
def test_parameter_counts_are_the_references(head: Head, layer_dims: list[int], count: int) -> None:
    algo = bc_rnn(head, hidden_dim=400, actor_layer_dims=layer_dims)
    assert algo.num_parameters() == count


def rename(reference: str) -> str | None:
    """The reference names the layers after the recurrent ones twice."""
    name = reference.removeprefix("policy.nets.")
    if name.startswith("rnn.per_step_net."):
        return None
    for i in range(4):
        name = name.replace(f"mlp._model.{2 * i}.", f"mlp.layers.{i}.")
    return name.replace("decoder.nets.", "decoder.").replace("rnn.nets.", "rnn.")


def build(config: dict[str, Any], train: dict[str, Any]) -> BCRNN:
    rnn = config["rnn"]
    assert rnn["horizon"] == train["seq_length"]
    return bc_rnn(
        gmm() if config["gmm"]["enabled"] else deterministic(),
        rnn_type=rnn["rnn_type"].lower(),
        hidden_dim=rnn["hidden_dim"],
        num_layers=rnn["num_layers"],
        seq_length=rnn["horizon"],
        open_loop=rnn["open_loop"],
        actor_layer_dims=config["actor_layer_dims"],
    )


@pytest.mark.parametrize("name", ["bc_rnn", "bc_rnn_gmm"])
def test_losses_and_weights_equal_the_references(golden: Path, name: str) -> None:
    GoldenCase(golden, name, build, rename).check()


def test_validation_equals_the_references(golden: Path) -> None:
    case = GoldenCase(golden, "bc_rnn", build, rename)
    assert same_metrics(case.validate(), case.record["validate_log_info"]) == 5


def test_validation_reports_the_true_likelihood(golden: Path) -> None:
    """The reference's own figure here is 8.6e7: a standard deviation of 1e-4 for all modes."""
    case = GoldenCase(golden, "bc_rnn_gmm", build, rename)
    assert case.record["validate_log_info"]["Loss"] > 1e7
    last = case.record["log_info"][-1]["Loss"]
    assert case.validate()["loss"] == pytest.approx(last, rel=1e-3)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_unrolling_equals_torchs_own(rnn_type: Any) -> None:
    """The first step is taken apart from the others; forward and backward must not show it."""
    actor = bc_rnn(rnn_type=rnn_type).actor
    obs = windows(time=4)["obs"]
    ours, theirs = actor(obs), actor._decode(actor.rnn(actor.encoder(obs, None))[0])
    ours, theirs = (torch.cat([*outputs.values()], dim=-1) for outputs in (ours, theirs))
    torch.testing.assert_close(ours, theirs)
    weights = list(actor.rnn.parameters())
    aim = torch.randn_like(ours)
    got = torch.autograd.grad((ours * aim).sum(), weights)
    expected = torch.autograd.grad((theirs * aim).sum(), weights)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_acting_forgets_after_every_window(rnn_type: Any) -> None:
    """What is acted step by step is what is trained, window by window."""
    algo = bc_rnn(rnn_type=rnn_type)
    obs = windows(time=6)["obs"]
    acted = torch.stack(
        [algo.get_action({k: v[:, t] for k, v in obs.items()}) for t in range(6)], dim=1
    )
    for first in (0, 3):
        window = {k: v[:, first : first + 3] for k, v in obs.items()}
        trained = torch.tanh(algo.actor(window)["action"])
        torch.testing.assert_close(acted[:, first : first + 3], trained)


def test_open_loop_sees_the_first_observation_only() -> None:
    algo = bc_rnn(open_loop=True)
    batch = windows(time=6)
    first = {k: v[:, :3] for k, v in batch["obs"].items()}
    processed = algo.process_batch_for_training({"obs": first, "actions": batch["actions"][:, :3]})
    for key, value in first.items():
        for t in range(3):
            assert torch.equal(processed["obs"][key][:, t], value[:, 0])
    trained = torch.tanh(algo.actor(processed["obs"])["action"])
    acted = [algo.get_action({k: v[:, t] for k, v in batch["obs"].items()}) for t in range(4)]
    torch.testing.assert_close(torch.stack(acted[:3], dim=1), trained)
    fourth = {k: v[:, 3:4] for k, v in batch["obs"].items()}
    torch.testing.assert_close(acted[3], torch.tanh(algo.actor(fourth)["action"])[:, 0])


def test_reset_forgets_one_environment() -> None:
    algo = bc_rnn()
    obs = {k: v[:, 0] for k, v in windows(batch=2)["obs"].items()}
    first = algo.get_action(obs, envs=[4, 9])
    second = algo.get_action(obs, envs=[4, 9])
    assert not torch.allclose(first, second)
    algo.reset([9])
    third = algo.get_action(obs, envs=[4, 9])
    torch.testing.assert_close(third[1], first[1])
    assert not torch.allclose(third[0], first[0])
    algo.reset()
    torch.testing.assert_close(algo.get_action(obs, envs=[4, 9]), first)


@pytest.mark.parametrize("hidden_dim", [13, 64])
@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_an_episode_does_not_depend_on_who_else_acts(rnn_type: Any, hidden_dim: int) -> None:
    """Bit for bit, over several windows, whatever rows and company an environment has."""
    head = gmm(num_modes=3, low_noise_eval=False)
    algo = bc_rnn(head, rnn_type=rnn_type, hidden_dim=hidden_dim, actor_layer_dims=[12])
    policy = Policy(algo, None, None)
    n, steps = ROWS + 3, 5
    rng = np.random.default_rng(0)
    obs = {k: rng.normal(size=(steps, n, *s)).astype(np.float32) for k, s in LIFT.items()}

    def episodes(envs: list[int], company: list[int]) -> np.ndarray:
        """Environments of `company` act along in the first two steps only."""
        acted: list[np.ndarray] = []
        for env in {*envs, *company}:
            policy.reset(env, seed=100 + env)
        for t in range(steps):
            asking = [*company, *envs] if t < 2 else envs
            actions = policy.act({k: v[t][asking] for k, v in obs.items()}, asking)
            acted.append(actions[len(asking) - len(envs) :])
        return np.stack(acted, axis=1)

    alone = np.concatenate([episodes([env], []) for env in range(n)])
    assert np.array_equal(episodes(list(range(n))[::-1], []), alone[::-1])
    assert np.array_equal(episodes([5, 1, 8], [0, 7, 3, 10]), alone[[5, 1, 8]])


@pytest.mark.parametrize(
    ("frame_stack", "seq_length"), [(1, 1), (1, 10), (2, 3)], ids=["short", "long", "stacked"]
)
def test_other_windows_are_refused(frame_stack: int, seq_length: int) -> None:
    """A horizon that differs from the window trains on nothing the policy will meet."""
    with pytest.raises(ConfigError, match=rf"algo\.seq_length=3, dataset\.seq_length={seq_length}"):
        bc_rnn(spec=spec(frame_stack=frame_stack, seq_length=seq_length))


def test_goals_follow_the_observations() -> None:
    """As in the reference: sorted observation keys, then sorted goal keys, at every step."""
    goal_shapes = {"robot0_eef_pos": (3,), "object": (10,)}
    actor = RecurrentActor(
        obs_shapes=LIFT,
        goal_shapes=goal_shapes,
        encoding=None,
        rnn_type="lstm",
        hidden_dim=13,
        num_layers=1,
        layer_dims=[],
        output_dims={"action": 7},
    )
    assert actor.encoder.out_dim == 32
    obs = windows()["obs"]
    goal = {k: torch.randn(5, *s) for k, s in goal_shapes.items()}
    features = actor.encoder(obs, goal)
    for t in range(3):
        parts = [*(obs[k][:, t] for k in sorted(obs)), *(goal[k] for k in sorted(goal))]
        assert torch.equal(features[:, t], torch.cat(parts, dim=-1))
    alone = {k: v[:, 0] for k, v in obs.items()}
    zeros = tuple(part.unsqueeze(1).expand(-1, 5, -1) for part in actor.initial_state())
    outputs, state = actor.step(alone, goal, zeros)
    torch.testing.assert_close(outputs["action"], actor(obs, goal)["action"][:, 0])
    assert [part.shape for part in state] == [(1, 5, 13)] * 2


@pytest.mark.parametrize("head", [deterministic(), gmm()], ids=["bc_rnn", "bc_rnn_gmm"])
def test_state_survives_bit_for_bit(head: Head) -> None:
    def step(algo: BCRNN, i: int) -> None:
        algo.train_on_batch(algo.process_batch_for_training(windows(seed=i)), epoch=1)
        algo.on_gradient_step()

    whole, first = bc_rnn(head, lr=1e-2), bc_rnn(head, lr=1e-2)
    first.actor.load_state_dict(whole.actor.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = bc_rnn(head, lr=1e-2, spec=spec(seq_length=3, seed=9))
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for a, b in zip(whole.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_loss_is_the_mean_over_all_steps() -> None:
    """By hand: an actor whose outputs are all zero answers with zero at every step."""
    algo = bc_rnn()
    with torch.no_grad():
        for parameter in algo.actor.decoder.parameters():
            parameter.zero_()
    batch = windows(batch=1, time=3)
    batch["actions"] = torch.arange(21).view(1, 3, 7) / 20
    with torch.no_grad():
        info = algo.train_on_batch(algo.process_batch_for_training(batch), epoch=1, validate=True)
    assert float(info["loss"]) == pytest.approx(sum(i * i for i in range(21)) / 400 / 21)


def test_a_gaussian_head_fits_too() -> None:
    algo = bc_rnn(Gaussian(init_std=0.1, min_std=0.01, fixed_std=False, low_noise_eval=True))
    info = algo.train_on_batch(algo.process_batch_for_training(windows()), epoch=1)
    assert set(info) == {"loss", "log_likelihood", "actor_grad_norm"}
