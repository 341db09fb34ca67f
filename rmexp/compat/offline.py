"""The reference's value-learning algorithms in our words."""

from __future__ import annotations

from rmexp.compat.cloning import vae
from rmexp.compat.optimizers import Overrides, optimizer, optimizer_type
from rmexp.compat.options import Options

LOSSES = {False: "l2", True: "huber"}
MAX_WEIGHT = 100.0
"""Where the reference clips the weights of IQL."""


def td3_bc(options: Options, train: Options) -> Overrides:
    return {
        "algo": "td3_bc",
        "algo.alpha": options.number("alpha"),
        **_returns(options),
        "algo.actor_update_every": options.integer("actor.update_freq"),
        "algo.target_noise_std": options.number("actor.noise_std"),
        "algo.target_noise_clip": options.number("actor.noise_clip"),
        **_layers(options),
        **_critics(options),
        **optimizer_type(options, "critic", "actor"),
        **optimizer(options, "critic", "critic_"),
        **optimizer(options, "actor", "actor_"),
    }


def iql(options: Options, train: Options) -> Overrides:
    kind = options.word("actor.net.type", {"gaussian": "iql", "gmm": "iql_gmm"})
    clipped = options.switch("adv.use_final_clip")
    return {
        "algo": kind,
        "algo.expectile": options.number("vf_quantile"),
        "algo.temperature": options.number("adv.beta"),
        "algo.max_advantage": options.number_or_null("adv.clip_adv_value"),
        "algo.max_weight": MAX_WEIGHT if clipped else None,
        "algo.discount": options.number("discount"),
        "algo.tau": options.number("target_tau"),
        **_layers(options),
        **_iql_head(options, kind),
        "algo.num_critics": options.integer("critic.ensemble.n"),
        "algo.td_loss": options.word("critic.use_huber", LOSSES),
        "algo.actor_max_grad_norm": options.number_or_null("actor.max_gradient_norm"),
        "algo.critic_max_grad_norm": options.number_or_null("critic.max_gradient_norm"),
        **optimizer_type(options, "critic", "vf", "actor"),
        **optimizer(options, "critic", "critic_"),
        **optimizer(options, "vf", "value_"),
        **optimizer(options, "actor", "actor_"),
    }


def _iql_head(options: Options, kind: str) -> Overrides:
    net = "actor.net"
    options.only(f"{net}.common.std_activation", "softplus")
    options.only(f"{net}.common.use_tanh", False)
    overrides: Overrides = {
        "algo.head.low_noise_eval": options.switch(f"{net}.common.low_noise_eval")
    }
    if kind == "iql":
        options.ignore(f"{net}.gmm.num_modes", f"{net}.gmm.min_std")
        return overrides | {
            "algo.init_last_layer": options.number_or_null(f"{net}.gaussian.init_last_fc_weight"),
            "algo.head.init_std": options.number(f"{net}.gaussian.init_std"),
            "algo.head.fixed_std": options.switch(f"{net}.gaussian.fixed_std"),
        }
    options.ignore(
        *(f"{net}.gaussian.{k}" for k in ("init_last_fc_weight", "init_std", "fixed_std"))
    )
    return overrides | {
        "algo.head.num_modes": options.integer(f"{net}.gmm.num_modes"),
        "algo.head.min_std": options.number(f"{net}.gmm.min_std"),
    }


def cql(options: Options, train: Options) -> Overrides:
    net = "actor.net"
    options.only(f"{net}.type", "gaussian")
    options.only(f"{net}.common.std_activation", "exp")
    options.only(f"{net}.common.use_tanh", True)
    options.only(f"{net}.gaussian.fixed_std", False)
    options.ignore(f"{net}.gaussian.init_std")  # without effect where the width is an exponential
    gap = options.number_or_null("critic.target_q_gap")
    return {
        "algo": "cql",
        "algo.discount": options.number("discount"),
        "algo.n_step": options.integer("n_step"),
        "algo.tau": options.number("target_tau"),
        "algo.target_entropy": options.number_null_or("actor.target_entropy", "default"),
        "algo.bc_start_steps": options.integer("actor.bc_start_steps"),
        "algo.num_random_actions": options.integer("critic.num_random_actions"),
        "algo.num_target_actions": options.integer("critic.num_action_samples"),
        "algo.deterministic_backup": options.switch("critic.deterministic_backup"),
        "algo.min_q_weight": options.number("critic.min_q_weight"),
        "algo.target_q_gap": gap if gap is not None and gap >= 0 else None,
        "algo.cql_weight": options.number("critic.cql_weight"),
        "algo.head.low_noise_eval": options.switch(f"{net}.common.low_noise_eval"),
        "algo.init_last_layer": options.number_or_null(f"{net}.gaussian.init_last_fc_weight"),
        **_layers(options),
        **_critics(options, weighted=False),
        "algo.actor_max_grad_norm": options.number_or_null("actor.max_gradient_norm"),
        **optimizer_type(options, "critic", "actor"),
        **optimizer(options, "critic", "critic_"),
        **optimizer(options, "actor", "actor_"),
    }


def bcq(options: Options, train: Options) -> Overrides:
    """Distributional critics come before a mixture as sampler, as the reference chooses."""
    distributional = options.switch("critic.distributional.enabled", default=False)
    mixture = options.switch("action_sampler.gmm.enabled", default=False) and not distributional
    overrides: Overrides = {
        "algo": "bcq_distributional" if distributional else "bcq_gmm" if mixture else "bcq",
        **_returns(options),
        "algo.num_action_samples": options.integer("critic.num_action_samples"),
        "algo.num_action_samples_rollout": options.integer("critic.num_action_samples_rollout"),
        "algo.critic_max_grad_norm": options.number_or_null("critic.max_gradient_norm"),
        **_perturbation(options),
        **(_atoms(options) if distributional else _expected(options)),
        **(_mixture(options) if mixture else _latents(options)),
        **optimizer_type(options, "critic", "action_sampler", "actor"),
    }
    for net in ("critic", "action_sampler", "actor"):
        overrides |= optimizer(options, net, f"{net}_")
    return overrides


def _perturbation(options: Options) -> Overrides:
    scale = options.number("actor.perturbation_scale", default=0.05)
    enabled = options.switch("actor.enabled", default=False)
    return {
        "algo.perturbation_scale": scale if enabled else None,
        "algo.actor_layer_dims": options.integers("actor.layer_dims"),
    }


def _expected(options: Options) -> Overrides:
    options.ignore("critic.distributional.num_atoms")
    return {
        "algo.critic.num_critics": options.integer("critic.ensemble.n"),
        "algo.critic.min_weight": options.number("critic.ensemble.weight"),
        "algo.critic.layer_dims": options.integers("critic.layer_dims"),
        "algo.critic.value_bounds": options.numbers_or_null("critic.value_bounds"),
        "algo.critic.td_loss": options.word("critic.use_huber", LOSSES),
    }


def _atoms(options: Options) -> Overrides:
    options.only("critic.ensemble.n", 1)
    options.ignore("critic.ensemble.weight", "critic.use_huber")
    bounds = options.numbers_or_null("critic.value_bounds")
    if bounds is None:
        options.complain("critic.value_bounds", "a distribution of values needs them")
    return {
        "algo.critic.num_atoms": options.integer("critic.distributional.num_atoms"),
        "algo.critic.layer_dims": options.integers("critic.layer_dims"),
        "algo.critic.value_bounds": bounds or [0.0, 1.0],
    }


def _latents(options: Options) -> Overrides:
    options.only("action_sampler.vae.enabled", True)
    options.only("action_sampler.freeze_encoder_epoch", -1, default=-1)
    options.ignore("action_sampler.gmm", "action_sampler.actor_layer_dims")
    node = "algo.action_sampler."
    return vae(options, "action_sampler.vae", node, f"algo/prior@{node}prior")


def _mixture(options: Options) -> Overrides:
    options.ignore("action_sampler.vae", "action_sampler.freeze_encoder_epoch")
    gmm, head = "action_sampler.gmm", "algo.action_sampler.head"
    options.only(f"{gmm}.std_activation", "softplus", default="softplus")
    return {
        "algo.action_sampler.actor_layer_dims": options.integers("action_sampler.actor_layer_dims"),
        f"{head}.num_modes": options.integer(f"{gmm}.num_modes"),
        f"{head}.min_std": options.number(f"{gmm}.min_std"),
        f"{head}.low_noise_eval": options.switch(f"{gmm}.low_noise_eval"),
    }


def _returns(options: Options) -> Overrides:
    return {
        "algo.discount": options.number("discount"),
        "algo.n_step": options.integer("n_step"),
        "algo.infinite_horizon": options.switch("infinite_horizon"),
        "algo.tau": options.number("target_tau"),
    }


def _layers(options: Options) -> Overrides:
    return {
        "algo.actor_layer_dims": options.integers("actor.layer_dims"),
        "algo.critic_layer_dims": options.integers("critic.layer_dims"),
    }


def _critics(options: Options, *, weighted: bool = True) -> Overrides:
    overrides: Overrides = {
        "algo.num_critics": options.integer("critic.ensemble.n"),
        "algo.value_bounds": options.numbers_or_null("critic.value_bounds"),
        "algo.td_loss": options.word("critic.use_huber", LOSSES),
        "algo.critic_max_grad_norm": options.number_or_null("critic.max_gradient_norm"),
    }
    if weighted:
        overrides["algo.min_weight"] = options.number("critic.ensemble.weight")
    return overrides
