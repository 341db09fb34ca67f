"""BCQ against the reference in its variants, its targets by hand, and what it proposes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.nets.samplers import RepeatedDraws
from tests.algo.golden_case import CPU, LIFT
from tests.algo.offline_rl import (
    RecordedCase,
    StartedCase,
    acting_is_of_the_row_alone,
    built,
    constant,
    critic_names,
    layer_names,
    random_batch,
    relative_difference,
    state_survives,
    step,
)

DIMS = ["algo.actor_layer_dims=[24,24]", "algo.critic.layer_dims=[24,24]"]
VAE = [
    "algo.action_sampler.encoder_layer_dims=[24,24]",
    "algo.action_sampler.decoder_layer_dims=[24,24]",
]
VARIANTS = {
    "vae": ["algo=bcq", *DIMS, *VAE],
    "actor": ["algo=bcq", *DIMS, *VAE, "algo.perturbation_scale=0.3"],
    "gmm": ["algo=bcq_gmm", *DIMS, "algo.action_sampler.actor_layer_dims=[24,24]"],
    "distributional": ["algo=bcq_distributional", *DIMS, *VAE],
}
METRICS = {
    "Loss": "loss",
    "Action_Sampler/Loss": "action_sampler_loss",
    "Action_Sampler/Reconsruction_Loss": "reconstruction_loss",
    "Action_Sampler/KL_Loss": "kl_loss",
    "Action_Sampler/Encoder_Variance": "encoder_variance",
    "Critic/Critic1_Loss": "critic1_loss",
    "Critic/Critic2_Loss": "critic2_loss",
    "Critic/Q_Targets": "q_target",
    "Actor/Loss": "actor_loss",
}
NORMS = {
    "Action_Sampler/Grad_Norms": "action_sampler_grad_norm",
    "Critic/Critic1_Grad_Norms": "critic1_grad_norm",
    "Critic/Critic2_Grad_Norms": "critic2_grad_norm",
}
"""The reference logs their squares."""


def names(reference: str) -> str:
    name = reference
    if name.startswith("action_sampler."):
        name = name.replace("_vae.nets.", "")
        for part in ("encoder", "decoder"):
            name = name.replace(f"sampler.{part}.nets.", f"sampler.{part}.")
        return layer_names(name)
    if name.startswith("actor"):
        name = name.replace("actor_target.", "actor_target.net.")
        return layer_names(name.replace("nets.", "net.", 1))
    return critic_names(name)


def test_the_recorded_case(golden: Path) -> None:
    case = RecordedCase(golden, "bcq", built(*VARIANTS["vae"]), names)
    rows = case.train()
    assert case.largest_error() < 1e-5
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        assert relative_difference(ours, theirs, METRICS) < 1e-5
        for name, norm in NORMS.items():
            assert ours[norm] ** 2 == pytest.approx(theirs[name], rel=1e-4)
    assert relative_difference(case.validate(), case.record["validate_log_info"], METRICS) < 1e-5


@pytest.mark.parametrize(("variant", "name"), [("vae", "bcq"), ("actor", "bcq_actor")])
def test_losses_and_weights_equal_the_references(golden: Path, variant: str, name: str) -> None:
    StartedCase(golden, name, built(*VARIANTS[variant]), names).check(METRICS)


def test_parameter_counts_are_the_references() -> None:
    algo = built("algo=bcq")
    counts = {
        name: sum(p.numel() for p in net.parameters() if p.requires_grad)
        for name, net in algo.nets.items()
    }
    assert counts == {"critic": 257_802, "critic_target": 0, "action_sampler": 273_135}


def test_target_by_hand() -> None:
    algo = built(*VARIANTS["vae"])
    for critic, target, value in zip(algo.critic, algo.critic_target.net, (2.0, 3.0), strict=True):
        constant(critic.net.decoder["value"], 1.0)
        constant(target.net.decoder["value"], value)
    batch = random_batch(2)
    batch["rewards"] = torch.tensor([[0.5], [0.25]])
    batch["dones"] = torch.tensor([[0.0], [1.0]])
    row = step(algo, batch, validate=True)
    targets = torch.tensor([0.5 + 0.99 * (0.75 * 2.0 + 0.25 * 3.0), 0.25])
    assert row["q_target"] == pytest.approx(float(targets.mean()))
    assert row["critic1_loss"] == pytest.approx(float((1.0 - targets).square().mean()))


def test_distributional_target_by_hand() -> None:
    """Three atoms 0, 1, 2; all mass at 1; 0.5 + 0.5 * 1 = 1 stays, 0.25 + 0 goes to 0 and 1."""
    options = ["algo.critic.num_atoms=3", "algo.critic.value_bounds=[0.0,2.0]", "algo.discount=0.5"]
    algo = built(*VARIANTS["distributional"], *options)
    obs = {k: torch.randn(2, *s) for k, s in LIFT.items()}
    target = algo.critic_target.net[0]
    constant(target.net.decoder["logits"], 0.0)
    with torch.no_grad():
        target.net.decoder["logits"].bias[1] = 100.0
    projected, _ = algo.action_value.backup(
        algo.critic_target.net,
        obs,
        torch.rand(4, 2, 7),
        torch.tensor([0.5, 0.25]),
        torch.tensor([0.5, 0.0]),
    )
    torch.testing.assert_close(projected, torch.tensor([[0.0, 1.0, 0.0], [0.75, 0.25, 0.0]]))


def test_the_best_proposal_is_backed_up() -> None:
    algo = built(*VARIANTS["distributional"], "algo.critic.value_bounds=[-1.0,1.0]")
    obs = {k: torch.randn(3, *s) for k, s in LIFT.items()}
    actions = torch.rand(5, 3, 7) * 2 - 1
    critics = algo.critic_target.net
    target, _ = algo.action_value.backup(critics, obs, actions, torch.zeros(3), torch.ones(3))
    best = algo.action_value.expected(critics[0], obs, actions).amax(0)
    torch.testing.assert_close((target * critics[0].atoms).sum(-1), best)


def test_an_actor_stays_near_the_proposals() -> None:
    algo = built(*VARIANTS["actor"])
    constant(algo.actor.net.decoder["action"], 100.0)
    obs = {k: torch.randn(3, *s) for k, s in LIFT.items()}
    actions = torch.rand(5, 3, 7) * 2 - 1
    expected = (actions + 0.3).clamp(max=1.0)
    torch.testing.assert_close(algo.actor(obs, actions), expected)
    assert built(*VARIANTS["vae"]).actor is None


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_state_survives_bit_for_bit(variant: str) -> None:
    state_survives(lambda: built(*VARIANTS[variant]))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_acting(variant: str) -> None:
    acting_is_of_the_row_alone(
        built(*VARIANTS[variant]),
        lambda rows: EpisodeDraws([SeededDraws(row, CPU) for row in rows], CPU),
    )


@pytest.mark.parametrize("variant", ["vae", "gmm"])
def test_samples_are_of_their_state(variant: str) -> None:
    """Tiled states and what is made of them keep their order."""
    algo = built(*VARIANTS[variant])
    algo.set_eval()
    obs = {k: torch.randn(3, *s) for k, s in LIFT.items()}

    def draws(rows: list[int]) -> RepeatedDraws:
        return RepeatedDraws(EpisodeDraws([SeededDraws(i, CPU) for i in rows], CPU), 4)

    def proposals(obs: dict[str, torch.Tensor], rows: list[int]) -> torch.Tensor:
        return algo.action_sampler.sample(obs, None, draws(rows), 4)["action"]

    together = proposals(obs, [0, 1, 2])
    assert together.shape == (4, 3, 7)
    alone = proposals({k: v[1:2] for k, v in obs.items()}, [1])
    torch.testing.assert_close(together[:, 1], alone[:, 0])
