"""TD3+BC against the reference, its target by hand, and when what moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rmexp.errors import ConfigError, DatasetError
from tests.algo.offline_rl import (
    RecordedCase,
    StartedCase,
    acting_is_of_the_row_alone,
    built,
    constant,
    critic_names,
    random_batch,
    relative_difference,
    state_survives,
    step,
)

SMALL = ["algo=td3_bc", "algo.actor_layer_dims=[24,24]", "algo.critic_layer_dims=[24,24]"]
METRICS = {
    "Loss": "loss",
    "Actor/Loss": "actor_loss",
    "Critic/Critic1_Loss": "critic1_loss",
    "Critic/Critic2_Loss": "critic2_loss",
    "Critic/Q_Targets": "q_target",
    "Optimizer/critic00_lr": "optimizer/critic1_lr",
    "Optimizer/actor0_lr": "optimizer/actor_lr",
}


def test_losses_and_weights_equal_the_references(golden: Path) -> None:
    case = RecordedCase(golden, "td3_bc", built(*SMALL), critic_names)
    rows = case.train()
    assert case.largest_error() < 1e-5
    assert len(rows) == len(case.record["log_info"]) == 4
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        assert relative_difference(ours, theirs, METRICS) < 1e-5
        for name in ("Critic1", "Critic2"):  # the reference logs the square of the norm
            ours_squared = ours[f"{name.lower()}_grad_norm"] ** 2
            theirs_squared = theirs[f"Critic/{name}_Grad_Norms"]
            assert ours_squared == pytest.approx(theirs_squared, rel=1e-4)
        assert ("actor_grad_norm" in ours) == ("Actor/Grad_Norms" in theirs)
    assert relative_difference(case.validate(), case.record["validate_log_info"], METRICS) < 1e-5


def test_every_option_equals_the_references(golden: Path) -> None:
    algo = built(
        *SMALL,
        "algo.num_critics=3",
        "algo.min_weight=0.75",
        "algo.td_loss=huber",
        "algo.infinite_horizon=true",
        "algo.critic_max_grad_norm=0.05",
        "algo.value_bounds=[-2,3]",
        "algo.actor_update_every=3",
    )
    StartedCase(golden, "td3_bc_options", algo, critic_names).check(METRICS)


def test_parameter_count() -> None:
    assert built("algo=td3_bc").num_parameters() == 2 * 72_961 + 72_711


def test_target_by_hand() -> None:
    algo = built(*SMALL)
    for critic, target, value in zip(algo.critic, algo.critic_target.net, (2.0, 3.0), strict=True):
        constant(critic.net.decoder["value"], 1.0)
        constant(target.net.decoder["value"], value)
    batch = random_batch(2)
    batch["rewards"] = torch.tensor([[0.5], [0.25]])
    batch["dones"] = torch.tensor([[0.0], [1.0]])
    row = step(algo, batch, validate=True)
    targets = torch.tensor([0.5 + 0.99 * 2.0, 0.25])
    assert row["q_target"] == pytest.approx(float(targets.mean()))
    assert row["critic1_loss"] == pytest.approx(float((1.0 - targets).square().mean()))


def test_actor_and_targets_move_at_every_second_step() -> None:
    algo = built(*SMALL)
    for number in range(1, 5):
        before = {k: v.clone() for k, v in algo.nets.state_dict().items()}
        row = step(algo, random_batch(5, seed=number))
        moved = {
            name.partition(".")[0]
            for name, value in algo.nets.state_dict().items()
            if not torch.equal(value, before[name])
        }
        everything = {"critic", "critic_target", "actor", "actor_target"}
        assert moved == (everything if number % 2 == 0 else {"critic"})
        assert ("actor_grad_norm" in row) == (number % 2 == 0)
        assert next(iter(row)) == "loss"


def test_state_survives_bit_for_bit() -> None:
    state_survives(lambda: built(*SMALL))  # it stops between two steps of the actor


def test_acting() -> None:
    acting_is_of_the_row_alone(built(*SMALL), lambda rows: None)


def test_returns_of_several_steps() -> None:
    algo = built(*SMALL, "algo.n_step=3", seq_length=3)
    batch = random_batch(4, 3)
    batch["rewards"] = torch.tensor([[1.0, 2.0, 4.0]]).repeat(4, 1)
    batch["dones"] = torch.zeros(4, 3)
    batch["dones"][1, 1] = 1.0  # ends at the second frame
    batch["pad_mask"][2, 2] = False  # the episode was cut off after two frames
    batch["dones"][3] = 1.0  # a last frame, and its repetitions
    batch["pad_mask"][3, 1:] = False
    ready = algo.process_batch_for_training(batch)
    g = 0.99
    whole, two = 1 + 2 * g + 4 * g * g, 1 + 2 * g
    torch.testing.assert_close(ready["rewards"], torch.tensor([whole, two, two, 1.0]))
    torch.testing.assert_close(ready["bootstrap"], torch.tensor([g**3, 0.0, g**2, 0.0]))
    assert torch.equal(ready["next_obs"]["object"], batch["next_obs"]["object"][:, 2])


@pytest.mark.parametrize("name", ["rewards", "dones"])
def test_rewards_can_not_broadcast(name: str) -> None:
    """(T, 1) for each window, as the reference makes up what a file lacks."""
    batch = random_batch(5)
    batch[name] = batch[name].unsqueeze(-1)
    with pytest.raises(DatasetError, match=rf"{name} have shape \(5, 1, 1\)"):
        built(*SMALL).process_batch_for_training(batch)


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"frame_stack=2, dataset\.seq_length=1"):
        built(*SMALL, frame_stack=2)
    with pytest.raises(ConfigError, match=r"dataset\.seq_length=1, algo\.n_step=3"):
        built(*SMALL, "algo.n_step=3")


def test_targets_of_images_have_the_statistics_of_their_networks() -> None:
    """The reference's targets keep their first ones for ever."""
    shapes = {"object": (10,), "camera": (3, 24, 24)}
    options = ["algo.encoder.width=16", "algo.encoder.crop=20", "algo.encoder.num_keypoints=3"]
    algo = built(*SMALL, *options, obs_shapes=shapes)
    batch = random_batch(4, obs_shapes={"object": (10,)})
    for name in ("obs", "next_obs"):
        images = torch.randint(0, 256, (4, 1, 24, 24, 3), dtype=torch.uint8)
        batch[name]["camera"] = images
    algo.set_train()
    for _ in range(2):
        step(algo, batch)
    for source, target in ((algo.critic, algo.critic_target), (algo.actor, algo.actor_target)):
        assert not target.net.training
        statistics = dict(source.named_buffers())
        assert sum("running_mean" in name for name in statistics) > 5
        for name, value in target.net.named_buffers():
            assert torch.equal(value, statistics[name]), name
