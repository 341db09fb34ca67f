"""The reference's diffusion policy in our words.

Its sections `unet` and `ema` can be switched off there only to end in an error. Versions up to 0.5
ignore the sizes in `unet` and build their defaults: what a checkpoint holds tells (`unet_sizes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmexp.compat.optimizers import Overrides, optimizer, optimizer_type
from rmexp.compat.options import Options

BETAS = {
    "squaredcos_cap_v2": "squared_cosine",
    "linear": "linear",
    "scaled_linear": "scaled_linear",
}
PREDICTIONS = {"epsilon": "noise", "sample": "actions", "v_prediction": "velocity"}
PROCESS = "num_train_timesteps num_inference_timesteps beta_schedule clip_sample prediction_type"
UNET = "policy.noise_pred_net"
N_GROUPS = 8
"""What its networks have, whatever its configuration says."""


def diffusion_policy(options: Options, train: Options) -> Overrides:
    options.only("unet.enabled", True)
    options.only("ema.enabled", True)
    prediction = options.integer("horizon.prediction_horizon")
    return {
        "algo": "diffusion_policy",
        "algo.obs_horizon": options.integer("horizon.observation_horizon"),
        "algo.pred_horizon": prediction,
        "algo.action_horizon": options.integer("horizon.action_horizon"),
        "algo.seq_length": train.integer("seq_length", default=prediction),
        "algo.backbone.down_dims": options.integers("unet.down_dims"),
        "algo.backbone.kernel_size": options.integer("unet.kernel_size"),
        "algo.backbone.n_groups": options.integer("unet.n_groups"),
        "algo.backbone.step_embed_dim": options.integer("unet.diffusion_step_embed_dim"),
        "algo.ema_power": options.number("ema.power"),
        "algo.max_grad_norm": train.number_or_null("max_grad_norm", default=None),
        **_process(options),
        **optimizer_type(options, "policy"),
        **optimizer(options, "policy"),
    }


def unet_sizes(algo_config: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """`algo_config` with the sizes of the U-Net in `arrays`, {the reference's name: array}."""
    down_dims: list[int] = []
    while (name := f"{UNET}.down_modules.{len(down_dims)}.0.blocks.0.block.0.weight") in arrays:
        down_dims.append(int(arrays[name].shape[0]))
    sizes = {
        "down_dims": down_dims,
        "kernel_size": int(arrays[f"{UNET}.down_modules.0.0.blocks.0.block.0.weight"].shape[2]),
        "diffusion_step_embed_dim": int(arrays[f"{UNET}.diffusion_step_encoder.3.weight"].shape[0]),
    }
    given = dict(algo_config["unet"])
    obeyed = list(given.get("down_dims", [])) == down_dims
    groups = given["n_groups"] if obeyed and "n_groups" in given else N_GROUPS
    return {**algo_config, "unet": {**given, **sizes, "n_groups": groups}}


def _process(options: Options) -> Overrides:
    kinds = [kind for kind in ("ddpm", "ddim") if options.switch(f"{kind}.enabled")]
    if len(kinds) != 1:
        options.complain("ddpm.enabled", "one of ddpm and ddim must be enabled")
        kinds = ["ddpm"]
    kind, node = kinds[0], "algo.noise_schedule"
    overrides: Overrides = {
        "algo/noise_schedule": kind,
        f"{node}.num_train_steps": options.integer(f"{kind}.num_train_timesteps"),
        f"{node}.num_inference_steps": options.integer(f"{kind}.num_inference_timesteps"),
        f"{node}.beta_schedule": options.word(f"{kind}.beta_schedule", BETAS),
        f"{node}.prediction": options.word(f"{kind}.prediction_type", PREDICTIONS),
        f"{node}.clip_sample": options.switch(f"{kind}.clip_sample"),
    }
    if kind == "ddim":
        overrides |= {
            f"{node}.final_signal_is_one": options.switch("ddim.set_alpha_to_one"),
            f"{node}.steps_offset": options.integer("ddim.steps_offset"),
        }
    else:
        options.ignore("ddim.set_alpha_to_one", "ddim.steps_offset")
    other = "ddim" if kind == "ddpm" else "ddpm"
    options.ignore(*(f"{other}.{key}" for key in PROCESS.split()))
    return overrides
