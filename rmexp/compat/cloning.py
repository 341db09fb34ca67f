"""The reference's `bc` in our words: one name there, eight choices here."""

from __future__ import annotations

from rmexp.compat.optimizers import Overrides, optimizer, optimizer_type
from rmexp.compat.options import Options

RNN_TYPES = {"LSTM": "lstm", "GRU": "gru"}

BC_VARIANTS = {
    ("", ""): "bc",
    ("gaussian", ""): "bc_gaussian",
    ("gmm", ""): "bc_gmm",
    ("vae", ""): "bc_vae",
    ("", "rnn"): "bc_rnn",
    ("gmm", "rnn"): "bc_rnn_gmm",
    ("", "transformer"): "bc_transformer",
    ("gmm", "transformer"): "bc_transformer_gmm",
}


def bc(options: Options, train: Options) -> Overrides:
    head = _enabled(options, "gaussian", "gmm", "vae")
    body = _enabled(options, "rnn", "transformer")
    if (head, body) not in BC_VARIANTS:
        options.complain(f"{head}.enabled", f"rmexp, like robomimic, has no {head} with {body}")
        return {}
    overrides: Overrides = {"algo": BC_VARIANTS[head, body]}
    overrides |= _optimizer(options, train)
    if head == "vae":
        overrides |= vae(options, "vae")
        options.ignore("loss", "actor_layer_dims")
    else:
        overrides |= _head(options, head)
    if body == "":
        overrides |= {} if head == "vae" else _layers(options)
    if body == "rnn":
        overrides |= _layers(options)
        overrides |= _rnn(options)
    if body == "transformer":
        overrides |= _transformer(options, train)
    _ignore_unused(options, head, body)
    return overrides


def _enabled(options: Options, *sections: str) -> str:
    """The first of `sections` that is switched on, as the reference looks for it."""
    states = {name: options.switch(f"{name}.enabled", default=False) for name in sections}
    return next((name for name, enabled in states.items() if enabled), "")


def _ignore_unused(options: Options, *used: str) -> None:
    """The keys of sections that are switched off; others in them are still reported."""
    for section, keys in BC_SECTIONS.items():
        if section not in used:
            options.ignore(*(f"{section}.{key}" for key in keys.split()))
    if used[0] in ("gaussian", "gmm"):
        options.ignore("loss.l2_weight", "loss.l1_weight", "loss.cos_weight")


BC_SECTIONS = {
    "gaussian": "fixed_std init_std min_std std_activation low_noise_eval",
    "gmm": "num_modes min_std std_activation low_noise_eval",
    "vae": (
        "latent_dim latent_clip kl_weight decoder prior encoder_layer_dims decoder_layer_dims "
        "prior_layer_dims"
    ),
    "rnn": "horizon hidden_dim rnn_type num_layers open_loop kwargs",
    "transformer": (
        "context_length embed_dim num_layers num_heads emb_dropout attn_dropout "
        "block_output_dropout sinusoidal_embedding activation supervise_all_steps "
        "nn_parameter_for_timesteps pred_future_acs"
    ),
}


def _head(options: Options, head: str) -> Overrides:
    if not head:
        return {
            f"algo.head.{ours}": options.number(f"loss.{ours}")
            for ours in ("l2_weight", "l1_weight", "cos_weight")
        }
    options.only(f"{head}.std_activation", "softplus", default="softplus")
    overrides: Overrides = {
        "algo.head.min_std": options.number(f"{head}.min_std"),
        "algo.head.low_noise_eval": options.switch(f"{head}.low_noise_eval"),
    }
    if head == "gmm":
        return overrides | {"algo.head.num_modes": options.integer("gmm.num_modes")}
    return overrides | {
        "algo.head.init_std": options.number("gaussian.init_std"),
        "algo.head.fixed_std": options.switch("gaussian.fixed_std"),
    }


def _layers(options: Options) -> Overrides:
    return {"algo.actor_layer_dims": options.integers("actor_layer_dims")}


def vae(
    options: Options, section: str, prefix: str = "algo.", group: str = "algo/prior"
) -> Overrides:
    """A section `vae`, of behavioural cloning or of something that contains it."""
    options.only(f"{section}.decoder.is_conditioned", True, default=True)
    return {
        f"{prefix}latent_dim": options.integer(f"{section}.latent_dim"),
        f"{prefix}latent_clip": options.number_or_null(f"{section}.latent_clip", default=None),
        f"{prefix}kl_weight": options.number(f"{section}.kl_weight"),
        f"{prefix}sum_reconstruction": options.switch(
            f"{section}.decoder.reconstruction_sum_across_elements", default=False
        ),
        f"{prefix}encoder_layer_dims": options.integers(f"{section}.encoder_layer_dims"),
        f"{prefix}decoder_layer_dims": options.integers(f"{section}.decoder_layer_dims"),
        group: _prior_kind(options, f"{section}.prior"),
        **_prior(options, f"{section}.prior", f"{section}.prior_layer_dims", f"{prefix}prior"),
    }


PRIOR_KEYS = (
    "categorical_dim categorical_gumbel_softmax_hard categorical_init_temp categorical_min_temp "
    "categorical_temp_anneal_step gmm_learn_weights gmm_num_modes is_conditioned"
)


def _prior_kind(options: Options, place: str) -> str:
    learned = options.switch(f"{place}.learn", default=False)
    kinds = [k for k in ("categorical", "gmm") if options.switch(f"{place}.use_{k}", default=False)]
    if len(kinds) > 1 or (kinds == ["gmm"] and not learned):
        options.complain(place, "robomimic wants one of use_gmm (with learn) and use_categorical")
    return kinds[0] if kinds else "gaussian" if learned else "normal"


def _prior(options: Options, place: str, layer_dims: str, node: str) -> Overrides:
    kind = _prior_kind(options, place)
    conditioned = options.switch(f"{place}.is_conditioned", default=False)
    network = {
        f"{node}.conditioned": conditioned,
        f"{node}.layer_dims": options.integers(layer_dims, default=[300, 400]),
    }
    if kind == "gmm":
        network |= {
            f"{node}.num_modes": options.integer(f"{place}.gmm_num_modes"),
            f"{node}.learn_weights": options.switch(f"{place}.gmm_learn_weights"),
        }
    if kind == "categorical":
        network |= {
            f"{node}.learned": options.switch(f"{place}.learn", default=False),
            f"{node}.num_classes": options.integer(f"{place}.categorical_dim"),
            f"{node}.hard": options.switch(f"{place}.categorical_gumbel_softmax_hard"),
            f"{node}.initial_temperature": options.number(f"{place}.categorical_init_temp"),
            f"{node}.temperature_step": options.number(f"{place}.categorical_temp_anneal_step"),
            f"{node}.min_temperature": options.number(f"{place}.categorical_min_temp"),
        }
    options.ignore(*(f"{place}.{key}" for key in PRIOR_KEYS.split()))
    return {} if kind == "normal" else network


def _rnn(options: Options) -> Overrides:
    options.only("rnn.kwargs.bidirectional", False, default=False)
    return {
        "algo.rnn_type": options.word("rnn.rnn_type", RNN_TYPES),
        "algo.hidden_dim": options.integer("rnn.hidden_dim"),
        "algo.num_layers": options.integer("rnn.num_layers"),
        "algo.seq_length": options.integer("rnn.horizon"),
        "algo.open_loop": options.switch("rnn.open_loop", default=False),
    }


def _transformer(options: Options, train: Options) -> Overrides:
    place = "transformer"
    learned = options.switch(f"{place}.nn_parameter_for_timesteps", default=True)
    sinusoidal = options.switch(f"{place}.sinusoidal_embedding", default=False)
    options.ignore("actor_layer_dims")  # the reference builds no such layers beside a transformer
    return {
        "algo.frame_stack": options.integer(f"{place}.context_length"),
        "algo.seq_length": train.integer("seq_length", default=1),
        "algo.embed_dim": options.integer(f"{place}.embed_dim"),
        "algo.num_layers": options.integer(f"{place}.num_layers"),
        "algo.num_heads": options.integer(f"{place}.num_heads"),
        "algo.positions": "sinusoidal" if sinusoidal else "learned" if learned else "table",
        "algo.activation": options.word(f"{place}.activation", {"gelu": "gelu", "geglu": "geglu"}),
        "algo.embed_dropout": options.number(f"{place}.emb_dropout"),
        "algo.attention_dropout": options.number(f"{place}.attn_dropout"),
        "algo.block_dropout": options.number(f"{place}.block_output_dropout"),
        "algo.supervise_all_steps": options.switch(f"{place}.supervise_all_steps", default=False),
        "algo.pred_future_acs": options.switch(f"{place}.pred_future_acs", default=False),
    }


def _optimizer(options: Options, train: Options) -> Overrides:
    return {
        **optimizer_type(options, "policy"),
        "algo.max_grad_norm": train.number_or_null("max_grad_norm", default=None),
        **optimizer(options, "policy"),
    }
