"""Critics, targets, the projection of distributions and the squashed Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as D
from torch import nn

from rmexp.errors import ConfigError
from rmexp.nets.action_values import Expected
from rmexp.nets.critics import (
    Critic,
    Critics,
    DistributionalCritic,
    Multiplier,
    Target,
    polyak_update,
    project,
)
from rmexp.nets.encoders import ObservationEncoder
from rmexp.nets.tanh_gaussian import TanhGaussian

SHAPES = {"z": (3,), "a": (11,)}


def observations(size: int) -> dict[str, torch.Tensor]:
    return {k: torch.randn(size, *s) for k, s in SHAPES.items()}


def test_an_action_follows_the_observation() -> None:
    critic = Critic(SHAPES, 7, [13], None, None)
    obs, actions = observations(5), torch.randn(5, 7)
    joined = torch.cat([ObservationEncoder(SHAPES)(obs), actions], -1)
    expected = critic.net.decoder(critic.net.mlp(joined)).squeeze(-1)
    assert critic(obs, actions).shape == (5,)
    torch.testing.assert_close(critic(obs, actions), expected)


def test_several_actions_of_a_state() -> None:
    critics = Critics(2, SHAPES, 7, [13, 17], None, None)
    obs, actions = observations(5), torch.randn(3, 5, 7)
    first, second = (critic(obs, actions) for critic in critics)
    assert first.shape == (3, 5)
    for n in range(3):
        torch.testing.assert_close(first[n], critics[0](obs, actions[n]))
    assert not torch.equal(first, second)


def test_values_keep_to_their_bounds() -> None:
    critic = Critic(SHAPES, 7, [13], [-2.0, 6.0], None)
    obs, actions = observations(5), torch.randn(5, 7)
    with torch.no_grad():
        critic.net.decoder.weight.zero_()
        for bias, value in ((0.0, 2.0), (50.0, 6.0), (-50.0, -2.0)):
            critic.net.decoder.bias.fill_(bias)
            torch.testing.assert_close(critic(obs, actions), torch.full((5,), value))


@pytest.mark.parametrize("bounds", [[1.0, 1.0], [2.0, 1.0], [1.0]])
def test_impossible_bounds_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ConfigError, match="value_bounds"):
        Critic(SHAPES, 7, [13], bounds, None)
    with pytest.raises(ConfigError, match="num_critics is 0"):
        Critics(0, SHAPES, 7, [13], None, None)


class FixedValues(nn.Module):
    """A critic that answers `values` (N, B) whatever it is shown."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, obs: object, actions: object) -> torch.Tensor:
        return self.values


@pytest.mark.parametrize(("min_weight", "value"), [(1.0, 3.0), (0.75, 3.5)])
def test_a_backup_mixes_the_least_and_the_greatest_critic(min_weight: float, value: float) -> None:
    expected = Expected(
        num_critics=3, min_weight=min_weight, layer_dims=[], value_bounds=None, td_loss="l2"
    )
    values = torch.tensor([[[1.0], [5.0]], [[2.0], [3.0]], [[4.0], [4.0]]])
    critics = nn.ModuleList(FixedValues(each) for each in values)
    rewards, bootstrap = torch.tensor([10.0]), torch.tensor([0.5])
    target, _ = expected.backup(critics, {}, torch.empty(2, 1, 7), rewards, bootstrap)
    torch.testing.assert_close(target, torch.tensor([10.0 + 0.5 * value]))


@pytest.mark.parametrize(("low", "high", "number"), [(0.0, 1.0, 51), (-3.7, 11.1, 7)])
def test_projecting_onto_itself_changes_nothing(low: float, high: float, number: int) -> None:
    """The reference's projection loses nearly all of it."""
    atoms = torch.linspace(low, high, number)
    probs = torch.rand(5, number).softmax(-1)
    assert torch.equal(project(atoms.expand(5, -1), probs, atoms), probs)


def test_projection_by_hand() -> None:
    atoms = torch.tensor([0.0, 1.0, 2.0])
    values = torch.tensor([[0.25, 1.5, 9.0], [-9.0, 2.0, 0.0]])
    probs = torch.tensor([[0.4, 0.2, 0.4], [0.5, 0.3, 0.2]])
    expected = torch.tensor([[0.3, 0.1 + 0.1, 0.1 + 0.4], [0.5 + 0.2, 0.0, 0.3]])
    torch.testing.assert_close(project(values, probs, atoms), expected)


def test_projection_keeps_mass_and_mean() -> None:
    atoms = torch.linspace(-1.0, 1.0, 11)
    values, probs = torch.rand(5, 11) * 2 - 1, torch.rand(5, 11).softmax(-1)
    moved = project(values, probs, atoms)
    torch.testing.assert_close(moved.sum(-1), torch.ones(5))
    torch.testing.assert_close((moved * atoms).sum(-1), (values * probs).sum(-1))


def test_a_distributional_critic_answers_with_the_mean() -> None:
    critic = DistributionalCritic(SHAPES, 7, [13], [0.0, 10.0], 11, None)
    obs, actions = observations(5), torch.randn(3, 5, 7)
    categorical = D.Categorical(logits=critic.logits(obs, actions))
    torch.testing.assert_close(critic(obs, actions), (categorical.probs * critic.atoms).sum(-1))
    assert critic.atoms.tolist() == list(range(11))
    assert "atoms" not in critic.state_dict()


def test_targets_follow_with_their_buffers() -> None:
    norm = nn.BatchNorm1d(5)
    source = nn.Sequential(nn.Linear(3, 5), norm)
    target = Target(source)
    buffers = dict(target.net.named_buffers())
    assert not any(p.requires_grad for p in target.parameters())
    before = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1.0
    source(torch.randn(7, 3))
    target.train()
    assert not any(module.training for module in target.modules())
    assert float(buffers["1.running_mean"].abs().max()) == 0.0
    polyak_update(source, target, 0.25)
    for old, new in zip(before, target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    for name, value in norm.named_buffers():
        assert torch.equal(buffers[f"1.{name}"], value), name
    assert int(buffers["1.num_batches_tracked"]) == 1


def test_multipliers() -> None:
    learned, fixed = Multiplier(None), Multiplier(0.25)
    assert float(learned().detach()) == 1.0
    assert float(fixed()) == pytest.approx(0.25)
    assert list(learned.state_dict()) == ["param"]
    assert list(fixed.state_dict()) == []
    assert float(Multiplier(0.0)()) == 0.0


def test_the_squashed_gaussian_is_torchs() -> None:
    head = TanhGaussian(min_std=0.007, low_noise_eval=True)
    outputs = {"mean": 0.5 * torch.randn(5, 7), "scale": 0.3 * torch.randn(5, 7) - 1.0}
    normal = D.Normal(outputs["mean"], outputs["scale"].exp())
    theirs = D.Independent(D.TransformedDistribution(normal, D.TanhTransform()), 1)
    noise = torch.randn(3, 5, 7)
    actions, log_prob = head.draw(outputs, noise)
    torch.testing.assert_close(actions, torch.tanh(normal.mean + normal.stddev * noise))
    torch.testing.assert_close(log_prob, theirs.log_prob(actions), rtol=1e-3, atol=1e-3)
    given = torch.rand(5, 7) * 1.8 - 0.9
    torch.testing.assert_close(
        head.log_prob(outputs, given), theirs.log_prob(given), rtol=1e-4, atol=1e-4
    )
    assert bool(torch.isfinite(head.log_prob(outputs, torch.ones(5, 7))).all())


def test_gradients_reach_the_actor_through_its_samples() -> None:
    head = TanhGaussian(min_std=0.007, low_noise_eval=True)
    outputs = {name: torch.zeros(5, 7, requires_grad=True) for name in ("mean", "scale")}
    actions, _ = head.draw(outputs, torch.ones(5, 7))
    actions.sum().backward()
    for value in outputs.values():
        assert value.grad is not None
        assert bool((value.grad > 0).all())
