"""Critics, targets, the projection of distributions and the squashed Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as D
from torch import nn

from rmexp.algo.optim import Target, polyak_update
from rmexp.errors import ConfigError
from rmexp.nets.critics import (
    Categorical,
    Critic,
    Critics,
    DistributionalCritic,
    Expected,
    Multiplier,
)
from rmexp.nets.mlp import ObservationEncoder
from rmexp.nets.tanh_gaussian import TanhGaussian
from tests.algo.offline_rl import constant

SHAPES = {"z": (3,), "a": (11,)}


def observations(size: int) -> dict[str, torch.Tensor]:
    return {k: torch.randn(size, *s) for k, s in SHAPES.items()}


def test_an_action_follows_the_observation() -> None:
    critic = Critic(SHAPES, 7, [13], None, None)
    obs, actions = observations(5), torch.randn(5, 7)
    joined = torch.cat([ObservationEncoder(SHAPES)(obs), actions], -1)
    expected = critic.net.decoder["value"](critic.net.mlp(joined)).squeeze(-1)
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
        for bias, value in ((0.0, 2.0), (50.0, 6.0), (-50.0, -2.0)):
            constant(critic.net.decoder["value"], bias)
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


class FixedDistribution(nn.Module):
    """A distributional critic that answers `probs` (N, B, K) whatever it is shown."""

    def __init__(self, probs: torch.Tensor, atoms: torch.Tensor) -> None:
        super().__init__()
        self.probs, self.atoms = probs, atoms

    def forward(self, obs: object, actions: object) -> torch.Tensor:
        return self.probs.log()


def projected(
    probs: torch.Tensor, atoms: torch.Tensor, rewards: torch.Tensor, bootstrap: torch.Tensor
) -> torch.Tensor:
    """The target of probs (B, K), of which there is one proposal a state."""
    numbers = {"num_atoms": len(atoms), "layer_dims": [], "value_bounds": [0.0, 1.0]}
    critics = nn.ModuleList([FixedDistribution(probs.unsqueeze(0), atoms)])
    actions = torch.empty(1, len(probs), 7)
    return Categorical(**numbers).backup(critics, {}, actions, rewards, bootstrap)[0]  # pyright: ignore


@pytest.mark.parametrize(("low", "high", "number"), [(0.0, 1.0, 51), (-3.7, 11.1, 7)])
def test_projecting_onto_itself_changes_nothing(low: float, high: float, number: int) -> None:
    """The reference's projection loses nearly all of it."""
    atoms, probs = torch.linspace(low, high, number), torch.eye(number)  # all mass on each in turn
    assert torch.equal(projected(probs, atoms, torch.zeros(number), torch.ones(number)), probs)
    probs = torch.rand(5, number).softmax(-1)
    torch.testing.assert_close(projected(probs, atoms, torch.zeros(5), torch.ones(5)), probs)


def test_projection_by_hand() -> None:
    """Atoms 0, 1, 2 move to 0.25, 0.75, 1.25, and to 1.5, 3.5, 5.5 and so beyond the last."""
    atoms = torch.tensor([0.0, 1.0, 2.0])
    probs = torch.tensor([[0.4, 0.2, 0.4], [0.5, 0.3, 0.2]])
    rewards, bootstrap = torch.tensor([0.25, 1.5]), torch.tensor([0.5, 2.0])
    first = [0.4 * 0.75 + 0.2 * 0.25, 0.4 * 0.25 + 0.2 * 0.75 + 0.4 * 0.75, 0.4 * 0.25]
    second = [0.0, 0.5 * 0.5, 0.5 * 0.5 + 0.3 + 0.2]
    expected = torch.tensor([first, second])
    torch.testing.assert_close(projected(probs, atoms, rewards, bootstrap), expected)
    below = projected(probs[:1], atoms, torch.tensor([-9.0]), torch.ones(1))
    torch.testing.assert_close(below, torch.tensor([[1.0, 0.0, 0.0]]))


def test_projection_keeps_mass_and_mean() -> None:
    atoms = torch.linspace(-1.0, 1.0, 11)
    probs = torch.rand(5, 11).softmax(-1)
    rewards, bootstrap = torch.rand(5) * 0.6 - 0.3, torch.rand(5) * 0.7
    target = projected(probs, atoms, rewards, bootstrap)
    torch.testing.assert_close(target.sum(-1), torch.ones(5))
    mean = rewards + bootstrap * (probs * atoms).sum(-1)
    torch.testing.assert_close((target * atoms).sum(-1), mean)


def test_a_distributional_critic_answers_with_log_probabilities() -> None:
    critic = DistributionalCritic(SHAPES, 7, [13], [0.0, 10.0], 11, None)
    obs, actions = observations(5), torch.randn(3, 5, 7)
    logits = critic.net(obs, inputs=actions)["logits"]
    answer = critic(obs, actions)
    assert answer.shape == (3, 5, 11)
    torch.testing.assert_close(answer, D.Categorical(logits=logits).logits)
    assert critic.atoms.tolist() == list(range(11))
    assert "atoms" not in critic.state_dict()
    chosen = Categorical(num_atoms=11, layer_dims=[13], value_bounds=[0.0, 10.0])
    mean = (logits.softmax(-1) * critic.atoms).sum(-1)
    torch.testing.assert_close(chosen.expected(critic, obs, actions), mean)


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
    assert float(learned.param.detach().exp()) == 1.0
    assert float(fixed.param.exp()) == pytest.approx(0.25)
    assert list(learned.state_dict()) == ["param"]
    assert list(fixed.state_dict()) == []
    assert float(Multiplier(0.0).param.exp()) == 0.0


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
