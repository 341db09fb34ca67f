"""One recorded case of the reference, driven through `rmexp.compat.robomimic` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmexp.algo.base import Algo
from rmexp.compat.robomimic import (
    algo_from_robomimic,
    replay_draws,
    robomimic_nets,
)
from tests.first_weights import draw_first_weights

LIFT = {
    "object": (10,),
    "robot0_eef_pos": (3,),
    "robot0_eef_quat": (4,),
    "robot0_gripper_qpos": (2,),
}

# What the reference did not write into its own record.
MAX_GRAD_NORM = {"bc_mixed_loss_clip": 0.5}
UNET = {"down_dims": [16, 24], "kernel_size": 3, "n_groups": 4, "diffusion_step_embed_dim": 16}

METRICS = {
    "Loss": "loss",
    "L2_Loss": "l2_loss",
    "L1_Loss": "l1_loss",
    "Cosine_Loss": "cosine_loss",
    "Log_Likelihood": "log_likelihood",
    "KL_Loss": "kl_loss",
    "Reconstruction_Loss": "reconstruction_loss",
    "Encoder_Variance": "encoder_variance",
    "Optimizer/policy0_lr": "optimizer/actor_lr",
    "Optimizer/actor0_lr": "optimizer/actor_lr",
    "Optimizer/critic00_lr": "optimizer/critic1_lr",
    "Critic/Critic3_Loss": "critic3_loss",
    "Critic/Critic1_Loss": "critic1_loss",
    "Critic/Critic2_Loss": "critic2_loss",
    "Critic/Q_Targets": "q_target",
    "Critic/CQL_Weight": "cql_weight",
    "Critic/CQL_Weight_Loss": "cql_weight_loss",
    "Entropy_Weight": "entropy_weight",
    "Entropy_Weight_Loss": "entropy_weight_loss",
    "Actor/Loss": "actor_loss",
    "Action_Sampler/Loss": "action_sampler_loss",
    "Action_Sampler/KL_Loss": "kl_loss",
    "Action_Sampler/Reconsruction_Loss": "reconstruction_loss",
    "actor/loss": "actor_loss",
    "actor/log_prob": "log_likelihood",
    "critic/critic1_loss": "critic1_loss",
    "vf/v_loss": "value_loss",
    "vf/v_pred/mean": "value",
    "vf/q_pred/mean": "q",
    "adv/adv/mean": "advantage",
    "adv/adv_weight/mean": "advantage_weight",
    "goal_a_pos_loss": "a_pos_loss",
    "goal_m_loss": "m_loss",
    "goal_z_loss": "z_loss",
    "Optimizer/goal_network0_lr": "optimizer/planner_lr",
    "Planner/Loss": "planner_loss",
    "Planner/KL_Loss": "planner_kl_loss",
    "Planner/Reconstruction_Loss": "planner_reconstruction_loss",
    "Planner/Planner/Loss": "planner_loss",
    "Planner/Planner/KL_Loss": "planner_kl_loss",
    "Planner/ValueNetwork/Loss": "value_loss",
    "Planner/ValueNetwork/Critic/Q_Targets": "value_q_target",
    "Planner/ValueNetwork/Critic/Critic1_Loss": "value_critic1_loss",
    "Actor/L2_Loss": "actor_l2_loss",
    "Actor/Optimizer/policy0_lr": "optimizer/actor_lr",
}
"""`Planner/Loss` of the reference's IRIS is the sum of two: it is left out there."""


class ReferenceCase:
    """`algo_<name>.json` and `.npz`: configuration, batch, draws, what was logged, weights.

    `last` are the weights after the last step; in `algo_*` files `init/` holds them by mistake.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.record: dict[str, Any] = json.loads((folder / f"algo_{name}.json").read_text())
        self.arrays = np.load(folder / f"algo_{name}.npz")
        self.last = {
            key.removeprefix("init/"): self.arrays[key]
            for key in self.arrays.files
            if key.startswith("init/")
        }
        self.algo = self.build()

    def build(self) -> Algo:
        config, train = dict(self.record["algo_config"]), dict(self.record["train"])
        if "unet" in config:
            config["unet"] = {**config["unet"], **UNET}
        if self.name in MAX_GRAD_NORM:
            train["max_grad_norm"] = MAX_GRAD_NORM[self.name]
        kind = "bc" if self.name.startswith("bc_") else self.name
        return algo_from_robomimic(kind, config, LIFT, 7, train)

    def batch(self) -> dict[str, Any]:
        return batch_of(self.arrays)

    def draws(self, step: str) -> list[tuple[str, Any]]:
        keys = sorted(key for key in self.arrays.files if key.startswith(f"noise/{step}/"))
        return [(key.rpartition("/")[2], self.arrays[key]) for key in keys]

    def train(self) -> list[dict[str, float]]:
        """The recorded steps from the recorded start: what is logged at each."""
        draw_first_weights(self.algo)
        self.algo.set_train()
        return [self.step(f"step{i}") for i in range(len(self.record["log_info"]))]

    def step(self, name: str, *, validate: bool = False) -> dict[str, float]:
        with replay_draws(self.algo, self.draws(name)):
            batch = self.algo.process_batch_for_training(self.batch())
            batch = self.algo.postprocess_batch_for_training(batch)
            info = self.algo.train_on_batch(batch, epoch=1, validate=validate)
        if not validate:
            self.algo.on_gradient_step()
        logged = self.algo.log_info(info)
        return {k: float(torch.as_tensor(v).detach()) for k, v in logged.items()}

    def errors(self) -> dict[str, np.ndarray]:
        """What is missing to the recorded last weights, by the reference's names."""
        now = robomimic_nets(self.algo)
        assert set(now) == set(self.last)
        return {key: value - now[key] for key, value in self.last.items()}


def batch_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What lies under `batch/`."""
    batch: dict[str, Any] = {}
    for key in arrays:
        if key.startswith("batch/"):
            place, _, name = key.removeprefix("batch/").partition("/")
            value = torch.from_numpy(arrays[key])
            if name:
                batch.setdefault(place, {})[name] = value
            else:
                batch[place] = value
    return batch


def largest_difference(
    ours: dict[str, float], theirs: dict[str, float], but: tuple[str, ...] = ()
) -> tuple[float, int]:
    """Of the metrics that both report: the largest relative difference, and how many they are."""
    compared = {
        name: ours[METRICS[name]]
        for name in theirs
        if name in METRICS and METRICS[name] in ours and name not in but
    }
    differences = [
        abs(value - theirs[name]) / max(abs(theirs[name]), 1e-6) for name, value in compared.items()
    ]
    return max(differences), len(differences)
