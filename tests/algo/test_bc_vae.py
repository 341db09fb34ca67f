"""BC-VAE against the reference, and its priors against the definitions."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor
from torch import distributions as D

from rmexp import build
from rmexp.algo.bc_vae import BCVAE
from rmexp.algo.optim import MultiStep
from rmexp.config import config_dir, register
from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.priors import CategoricalPrior, GaussianPrior, GMMPrior
from rmexp.nets.vae import VAE, NormalPrior, Prior
from rmexp.policy import ROWS, Policy
from tests.algo.golden_case import CPU, LIFT, GoldenCase, encoding, same_metrics, spec

L, K, C = 5, 3, 4


def gaussian(conditioned: bool = False) -> GaussianPrior:
    return GaussianPrior(conditioned=conditioned, layer_dims=[12])


def gmm(learn_weights: bool = True, conditioned: bool = False) -> GMMPrior:
    return GMMPrior(
        num_modes=K, learn_weights=learn_weights, conditioned=conditioned, layer_dims=[12]
    )


def categorical(**changes: Any) -> CategoricalPrior:
    values: dict[str, Any] = {
        "num_classes": C,
        "learned": False,
        "conditioned": False,
        "layer_dims": [12],
        "hard": False,
        "initial_temperature": 1.0,
        "temperature_step": 0.25,
        "min_temperature": 0.3,
    }
    return CategoricalPrior(**{**values, **changes})


PRIORS: dict[str, Prior | NormalPrior] = {
    "normal": NormalPrior(),
    "gaussian": gaussian(),
    "gaussian_conditioned": gaussian(conditioned=True),
    "gmm": gmm(),
    "gmm_equal_weights": gmm(learn_weights=False),
    "gmm_conditioned": gmm(conditioned=True),
    "categorical": categorical(),
    "categorical_hard": categorical(hard=True),
    "categorical_learned": categorical(learned=True),
    "categorical_conditioned": categorical(learned=True, conditioned=True),
}
every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
OTHERS = {name: prior for name, prior in PRIORS.items() if isinstance(prior, Prior)}


def bc_vae(prior: Prior | NormalPrior | None = None, **changes: Any) -> BCVAE:
    values: dict[str, Any] = {
        "latent_dim": L,
        "latent_clip": None,
        "kl_weight": 0.7,
        "sum_reconstruction": False,
        "encoder_layer_dims": [24],
        "decoder_layer_dims": [28],
        "encoder": encoding(),
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_schedule": MultiStep(epochs=[], decay_factor=1.0),
        "l2_regularization": 0.0,
        "max_grad_norm": None,
        "spec": spec(),
        "device": CPU,
    }
    return BCVAE(prior=prior or NormalPrior(), **{**values, **changes})


def frames(batch: int = 6, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    obs = {k: torch.randn(batch, 1, *s, generator=g) for k, s in LIFT.items()}
    return {"obs": obs, "actions": torch.rand(batch, 1, 7, generator=g) * 2 - 1}


def test_the_parameter_count_is_the_references() -> None:
    algo = bc_vae(latent_dim=14, encoder_layer_dims=[300, 400], decoder_layer_dims=[300, 400])
    assert algo.num_parameters() == 273_135


def rename(reference: str) -> str | None:
    """With a learned prior also: prior.prior_params.X -> prior_parameters.free.X, and
    prior.prior_module.nets. -> prior_parameters.network. with the layers' names as here.
    """
    name = reference.removeprefix("policy._vae.nets.")
    name = name.replace("prior.prior_params.", "prior_parameters.free.")
    name = name.replace("prior.prior_module.", "prior_parameters.network.")
    name = name.replace(".decoder.nets.", ".decoder.").replace("nets.mlp.", "mlp.")
    for i in range(4):
        name = name.replace(f"mlp._model.{2 * i}.", f"mlp.layers.{i}.")
    return name.replace(".nets.decoder.", ".decoder.")


def build_golden(config: dict[str, Any], train: dict[str, Any]) -> BCVAE:
    vae = config["vae"]
    assert not vae["prior"]["learn"]
    assert not vae["prior"]["use_categorical"]
    return bc_vae(
        latent_dim=vae["latent_dim"],
        latent_clip=vae["latent_clip"],
        kl_weight=vae["kl_weight"],
        sum_reconstruction=vae["decoder"]["reconstruction_sum_across_elements"],
        encoder_layer_dims=vae["encoder_layer_dims"],
        decoder_layer_dims=vae["decoder_layer_dims"],
    )


def test_losses_and_weights_equal_the_references(golden: Path) -> None:
    GoldenCase(golden, "bc_vae", build_golden, rename).check()


def test_validation_equals_the_references(golden: Path) -> None:
    case = GoldenCase(golden, "bc_vae", build_golden, rename)
    assert same_metrics(case.validate(), case.record["validate_log_info"]) == 5


def parameters_of(prior: Prior, rows: int) -> dict[str, Tensor]:
    return {
        name: torch.randn(rows, *shape) * 0.5 for name, shape in prior.parameter_shapes(L).items()
    }


def normal(mean: Tensor, logvar: Tensor) -> D.Distribution:
    return D.Independent(D.Normal(mean, (0.5 * logvar).exp()), 1)


def test_gaussian_divergences_are_torchs() -> None:
    posterior = {"mean": torch.randn(6, L), "logvar": torch.randn(6, L)}
    q, z = normal(posterior["mean"], posterior["logvar"]), torch.zeros(6, L)
    for rows in (1, 6):
        learned = parameters_of(gaussian(), rows)
        p = normal(*(learned[k][:, 0].expand(6, L) for k in ("mean", "logvar")))
        torch.testing.assert_close(
            gaussian().kl(posterior, z, learned), D.kl_divergence(q, p).mean()
        )


def test_the_divergence_from_the_standard_normal_is_torchs() -> None:
    algo = bc_vae()
    batch = algo.process_batch_for_training(frames())
    with torch.no_grad():
        posterior = algo.actor.encoder(batch["obs"], None, batch["actions"])
        info = algo.train_on_batch(batch, epoch=1, validate=True)
    q = normal(posterior["mean"], posterior["logvar"])
    p = normal(*torch.zeros(2, *posterior["mean"].shape))
    torch.testing.assert_close(info["kl_loss"], D.kl_divergence(q, p).mean())


@pytest.mark.parametrize("learn_weights", [True, False])
@pytest.mark.parametrize("rows", [1, 6])
def test_the_mixtures_divergence_is_estimated_with_the_latent(
    learn_weights: bool, rows: int
) -> None:
    prior = gmm(learn_weights=learn_weights)
    learned = parameters_of(prior, rows)
    posterior = {"mean": torch.randn(6, L), "logvar": torch.randn(6, L)}
    z = torch.randn(6, L)
    weights = learned["weight"] if learn_weights else torch.zeros(rows, K)
    mixture = D.MixtureSameFamily(
        D.Categorical(logits=weights.expand(6, -1)),
        D.Independent(D.Normal(*(learned["mean"], (0.5 * learned["logvar"]).exp())), 1).expand(
            (6, K)
        ),
    )
    expected = normal(posterior["mean"], posterior["logvar"]).log_prob(z) - mixture.log_prob(z)
    torch.testing.assert_close(prior.kl(posterior, z, learned), expected.mean())


@pytest.mark.parametrize("learned", [True, False])
def test_the_categorical_divergence_is_torchs(learned: bool) -> None:
    prior = categorical(learned=learned)
    values = parameters_of(prior, 1)
    posterior = {"logit": torch.randn(6, L * C)}
    p = D.Categorical(logits=values["logit"] if learned else torch.zeros(1, L, C))
    q = D.Categorical(logits=posterior["logit"].view(6, L, C))
    expected = D.kl_divergence(q, p).sum(-1).mean()
    torch.testing.assert_close(prior.kl(posterior, torch.zeros(6, L * C), values), expected)


@pytest.mark.parametrize("prior", OTHERS.values(), ids=OTHERS.keys())
def test_samples_follow_the_prior(prior: Prior) -> None:
    """Mean and variance of every latent entry over many samples, by their definitions."""
    n = 60_000
    values = parameters_of(prior, 1)
    z = prior.sample(values, (n, L), SeededDraws(0, CPU))
    assert z.shape == (n, prior.latent_width(L))
    if isinstance(prior, CategoricalPrior):
        logits = values["logit"][0] if prior.learned else torch.zeros(L, C)
        mean = second = logits.softmax(-1).flatten()
    else:
        weights = values.get("weight", torch.zeros(1, values["mean"].shape[1])).softmax(-1)[0]
        means = values["mean"][0]
        mean = weights @ means
        second = weights @ (means.square() + values["logvar"][0].exp())
    torch.testing.assert_close(z.mean(0), mean, atol=0.03, rtol=0.0)
    torch.testing.assert_close(z.square().mean(0), second, atol=0.08, rtol=0.0)


def test_the_standard_normals_samples_are_its_draws() -> None:
    obs = bc_vae().process_batch_for_training(frames())["obs"]
    z = bc_vae().actor.sample_prior(obs, None, SeededDraws(0, CPU))
    assert torch.equal(z, SeededDraws(0, CPU).randn((6, L)))


@every_prior
def test_several_samples_of_a_state_are_those_of_its_repetitions(
    prior: Prior | NormalPrior,
) -> None:
    vae = bc_vae(prior).actor
    obs = bc_vae().process_batch_for_training(frames())["obs"]
    rows = {k: v.repeat_interleave(3, dim=0) for k, v in obs.items()}
    with torch.no_grad():
        several = vae.sample(obs, None, SeededDraws(0, CPU), 3)["action"]
        one_by_one = vae.sample(rows, None, SeededDraws(0, CPU))["action"]
    assert several.shape == (3, 6, 7)
    torch.testing.assert_close(several.transpose(0, 1).flatten(0, 1), one_by_one)


@every_prior
def test_a_step_trains_every_network(prior: Prior | NormalPrior) -> None:
    algo = bc_vae(prior, lr=1e-2)
    before = {k: p.clone() for k, p in algo.actor.named_parameters()}
    info = algo.train_on_batch(algo.process_batch_for_training(frames()), epoch=1)
    assert next(iter(info)) == "loss"
    expected = info["reconstruction_loss"] + 0.7 * info["kl_loss"]
    torch.testing.assert_close(info["loss"], expected)
    for name, parameter in algo.actor.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    parameters = algo.actor.prior_parameters
    learned = 0 if parameters is None else sum(p.numel() for p in parameters.parameters())
    if isinstance(prior, NormalPrior):
        assert learned == 0
        return
    free = sum(math.prod(s) for s in prior.parameter_shapes(L).values())
    assert learned == (free if not prior.conditioned else 12 * (19 + 1) + free * (12 + 1))


def test_the_gumbel_temperature_falls_with_the_epochs() -> None:
    algo = bc_vae(categorical())
    batch = algo.process_batch_for_training(frames())
    with torch.no_grad():
        infos = [algo.train_on_batch(batch, epoch=e, validate=True) for e in range(5)]
    assert [float(i["gumbel_temperature"]) for i in infos] == pytest.approx(
        [1.0, 0.75, 0.5, 0.3, 0.3]
    )
    posterior = {"logit": torch.randn(6, L * C)}
    cold, warm = categorical(min_temperature=0.01), categorical()
    z = {
        prior: prior.sample_posterior(posterior, SeededDraws(0, CPU), epoch)[0].view(6, L, C)
        for prior, epoch in ((cold, 9), (warm, 0))
    }
    for latent in z.values():
        torch.testing.assert_close(latent.sum(-1), torch.ones(6, L))
    assert torch.equal(z[cold].argmax(-1), z[warm].argmax(-1))
    assert float(z[cold].amax(-1).mean()) > 0.98 > 0.9 > float(z[warm].amax(-1).mean())


def test_hard_samples_have_the_gradients_of_soft_ones() -> None:
    logits = torch.randn(6, L * C, requires_grad=True)
    aim = torch.randn(6, L * C)

    def gradient(prior: CategoricalPrior) -> tuple[Tensor, Tensor]:
        z, _ = prior.sample_posterior({"logit": logits}, SeededDraws(0, CPU), 1)
        return z, torch.autograd.grad((z * aim).sum(), logits)[0]

    (hard, of_hard), (_, of_soft) = gradient(categorical(hard=True)), gradient(categorical())
    torch.testing.assert_close(of_hard, of_soft)
    torch.testing.assert_close(hard, hard.round(), atol=1e-6, rtol=0.0)


def test_the_gumbel_trick_samples_the_posterior() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(40_000, 1)
    z, _ = categorical(hard=True).sample_posterior({"logit": logits}, SeededDraws(0, CPU), 1)
    torch.testing.assert_close(z.mean(0), logits[0].exp(), atol=0.01, rtol=0.0)


def test_validation_leaves_no_trace_in_training() -> None:
    algo = bc_vae()
    batch = algo.process_batch_for_training(frames())
    before = copy.deepcopy(algo.serialize())
    with torch.no_grad():
        algo.train_on_batch(batch, epoch=1, validate=True)
    after = algo.serialize()
    assert torch.equal(before["draws"]["train"]["generator"], after["draws"]["train"]["generator"])
    for key, value in before["nets"].items():
        assert torch.equal(value, after["nets"][key])


@pytest.mark.parametrize("summed", [True, False])
def test_the_reconstruction_loss_by_hand(summed: bool) -> None:
    """A decoder whose weights are zero answers with zero."""
    algo = bc_vae(sum_reconstruction=summed)
    with torch.no_grad():
        for parameter in algo.actor.decoder.parameters():
            parameter.zero_()
        batch = algo.process_batch_for_training(frames(batch=2))
        batch["actions"] = torch.arange(14).view(2, 7) / 20
        info = algo.train_on_batch(batch, epoch=1, validate=True)
    total = sum(i * i for i in range(14)) / 400
    expected = total / 2 if summed else total / 14
    assert float(info["reconstruction_loss"]) == pytest.approx(expected)


def test_latents_are_clipped_when_acting() -> None:
    algo = bc_vae(latent_clip=0.0)
    obs = {k: v[:, 0] for k, v in frames()["obs"].items()}
    decoded = algo.actor.decoder(obs, None, torch.zeros(6, L))["action"]
    torch.testing.assert_close(algo.get_action(obs), decoded.tanh())


@every_prior
def test_an_episode_does_not_depend_on_who_else_acts(prior: Prior | NormalPrior) -> None:
    policy = Policy(bc_vae(prior), None, None)
    n, steps = ROWS + 3, 2
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


def test_goals_follow_the_observations() -> None:
    """As in the reference: inputs, sorted observation keys, sorted goal keys."""
    goal_shapes = {"robot0_eef_pos": (3,), "object": (10,)}
    vae = VAE(
        input_shapes={"b": (2,), "a": (3,)},
        output_dims={"b": 2, "a": 3},
        condition_shapes=LIFT,
        goal_shapes=goal_shapes,
        encoding=None,
        encoder_layer_dims=[],
        decoder_layer_dims=[12],
        latent_dim=L,
        latent_clip=None,
        kl_weight=1.0,
        prior=gmm(conditioned=True),
        squash=False,
        sum_reconstruction=False,
    )
    x = {"a": torch.randn(6, 3), "b": torch.randn(6, 2)}
    obs = {k: torch.randn(6, *s) for k, s in LIFT.items()}
    goal = {k: torch.randn(6, *s) for k, s in goal_shapes.items()}
    parts = [v[k] for v in (x, obs, goal) for k in sorted(v)]
    expected = vae.encoder.decoder["mean"](torch.cat(parts, dim=-1))
    x_flat = torch.cat([x["a"], x["b"]], dim=-1)
    torch.testing.assert_close(vae.encoder(obs, goal, x_flat)["mean"], expected)
    assert vae.decoder.mlp.layers[0].weight.shape == (12, L + 19 + 13)

    losses = vae.losses(x, obs, goal, SeededDraws(0, CPU), 1)
    other = {k: v + 1.0 for k, v in goal.items()}
    changed = vae.losses(x, obs, other, SeededDraws(0, CPU), 1)
    for name in ("reconstruction_loss", "kl_loss"):
        assert losses[name] != changed[name]
    samples = vae.sample(obs, goal, SeededDraws(0, CPU))
    assert {k: v.shape for k, v in samples.items()} == {"a": (6, 3), "b": (6, 2)}


def test_windows_of_several_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"frame_stack=3, dataset\.seq_length=1"):
        bc_vae(spec=spec(frame_stack=3))


@pytest.mark.parametrize("name", ["normal", "gaussian", "gmm", "categorical"])
def test_every_prior_composes(name: str) -> None:
    register()
    GlobalHydra.instance().clear()
    assert {f.stem for f in (config_dir() / "algo/prior").glob("*.yaml")} == {
        "normal",
        "gaussian",
        "gmm",
        "categorical",
    }
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=["algo=bc_vae", f"algo/prior={name}"])
    algo = build.algo(config, spec(), CPU)
    assert isinstance(algo, BCVAE)
    chosen = NormalPrior if algo.actor.prior is None else type(algo.actor.prior)
    assert chosen.__name__.lower() == f"{name}prior"


@pytest.mark.parametrize("name", ["normal", "gmm_conditioned", "categorical_learned"])
def test_state_survives_bit_for_bit(name: str) -> None:
    prior = PRIORS[name]

    def step(algo: BCVAE, i: int) -> None:
        algo.train_on_batch(algo.process_batch_for_training(frames(seed=i)), epoch=1 + i // 2)
        algo.on_gradient_step()

    whole, first = bc_vae(prior, lr=1e-2), bc_vae(prior, lr=1e-2)
    first.actor.load_state_dict(whole.actor.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = bc_vae(prior, lr=1e-2, spec=spec(seed=9))
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for a, b in zip(whole.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)
