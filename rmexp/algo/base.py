"""The contract between the loop, the policy and an algorithm.

It is the protocol that robomimic made known, so that its algorithms run in our loop and ours in
its loop. Bookkeeping that is the same for every algorithm is written here once and is final;
what makes an algorithm is abstract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rmexp.algo.optim import Optimizer
from rmexp.draws import Draws, SeededDraws
from rmexp.errors import ConfigError
from rmexp.metrics import Value
from rmexp.nets.encoders import ImageEncoding
from rmexp.seeding import derive

Batch = dict[str, Any]
Stats = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What an algorithm must know of its data and its run.

    Shapes are those of one frame as the networks see it: images are channels first.
    """

    obs_shapes: Mapping[str, tuple[int, ...]]
    goal_shapes: Mapping[str, tuple[int, ...]]
    ac_dim: int
    frame_stack: int
    seq_length: int
    total_steps: int
    seed: int


class Algo(ABC):
    """An algorithm: networks, optimisers, counters and draws, and how they train and act.

    A subclass fills `nets`, `optimizers`, `counters` and `draws` in its constructor; whatever is
    in them survives a checkpoint.
    """

    batch_keys: ClassVar[tuple[str, ...]]
    """The entries of a batch that `process_batch_for_training` reads, beside goals."""

    sees_goals: ClassVar[bool] = False
    """Whether it reads `goal_obs` too, and acts with goals, where the spec has any."""

    acts: ClassVar[bool] = True
    """False: what it predicts is not an action, so that it cannot be rolled out."""

    encoder: ImageEncoding | None = None
    """How images become features. An algorithm that takes images in sets it, and by that has the
    images of its batches augmented while training."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        if spec.goal_shapes and not self.sees_goals:
            raise ConfigError(
                f"dataset.goal_mode: {type(self).__name__} does not look at goals; "
                "say dataset.goal_mode=null"
            )
        self.spec = spec
        self.device = device
        self.nets = nn.ModuleDict()
        self.optimizers: dict[str, Optimizer] = {}
        self.counters: dict[str, int] = {}
        self.draws: dict[str, SeededDraws] = {
            "train": SeededDraws(derive(spec.seed, "train"), device),
            "valid": SeededDraws(derive(spec.seed, "valid"), device),
            "act": SeededDraws(derive(spec.seed, "act"), device),
        }

    # What makes an algorithm.

    @abstractmethod
    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Pick and slice what this algorithm uses of a batch; move it to the device."""

    @abstractmethod
    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """Forward, loss and, unless `validate`, the gradient step; returns 0-d tensors."""

    @abstractmethod
    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        """obs {key: (B, D_key)}, or (B, T, D_key) with stacked frames -> actions (B, A).

        Args:
            obs_dict: one row per environment, normalised and channels first.
            goal_dict: the same for goals, for algorithms that have any.
            draws: where random numbers come from; None is the algorithm's own.
            envs: which environment each row belongs to, for algorithms that remember; None is
                0 to B - 1. Negative numbers are padding, whose memory may be forgotten at once.
        """

    @abstractmethod
    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Forget what was acted so far in these environments, or in all of them."""

    # What is the same for all of them.

    def postprocess_batch_for_training(
        self, batch: Batch, obs_normalization_stats: Stats | None = None
    ) -> Batch:
        """On the device: images uint8 (..., H, W, C) -> float (..., C, H, W); normalise; augment.

        Double precision, which a loader of somebody else's may give, becomes single. Images are
        augmented while training only.
        """
        for name in ("obs", "next_obs", "goal_obs", "subgoal_obs"):
            if batch.get(name) is not None:
                batch[name] = prepare_observations(batch[name], obs_normalization_stats)
        if "actions" in batch and batch["actions"].dtype == torch.float64:
            batch["actions"] = batch["actions"].float()
        return self.augmented(batch) if self.nets.training else batch

    def augmented(self, batch: Batch) -> Batch:
        """A batch with its images changed as `encoder` says, anew at every call."""
        if self.encoder is None:
            return batch
        draws = self.draws["train"]
        names = [name for name in ("obs", "next_obs", "goal_obs") if batch.get(name) is not None]
        return batch | {name: self.encoder.augment(batch[name], draws) for name in names}

    def on_gradient_step(self) -> None:
        """Advance what counts gradient steps; called after training steps only."""
        for optimizer in self.optimizers.values():
            optimizer.after_step()

    def on_epoch_end(self, epoch: int) -> None:
        """Advance what counts epochs; `epoch` counts from 1."""
        for optimizer in self.optimizers.values():
            optimizer.after_epoch(epoch)

    def log_info(self, info: Mapping[str, Tensor]) -> dict[str, Value]:
        """Metric name -> 0-d tensor or float; a name with a slash stands for itself."""
        logged: dict[str, Value] = {name: value.detach() for name, value in info.items()}
        return logged | {f"optimizer/{name}_lr": o.lr for name, o in self.optimizers.items()}

    def set_train(self) -> None:
        self.nets.train()

    def set_eval(self) -> None:
        self.nets.eval()

    def serialize(self) -> dict[str, Any]:
        """Everything that must survive, as tensors and plain values."""
        return {
            "nets": self.nets.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "draws": {name: d.state_dict() for name, d in self.draws.items()},
            "counters": dict(self.counters),
        }

    def deserialize(self, state: Mapping[str, Any], load_optimizers: bool = False) -> None:
        """Take over `serialize()`'s networks and draws, and on request the optimisers."""
        self.nets.load_state_dict(state["nets"])
        self.counters.update(state["counters"])
        for name, draws in self.draws.items():
            draws.load_state_dict(state["draws"][name])
        if load_optimizers:
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])

    def cannot_roll_out(self) -> str | None:
        """Why it cannot act by itself in an environment, or None."""
        if not self.acts:
            return f"no rollouts: {type(self).__name__} predicts no actions"
        if self.spec.goal_shapes:
            return "no rollouts: with dataset.goal_mode a policy must be told its goal"
        return None

    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.nets.parameters() if p.requires_grad)


def prepare_observations(obs: Mapping[str, Tensor], stats: Stats | None) -> dict[str, Tensor]:
    """Raw observations {key: (..., D)} or uint8 images (..., H, W, C) -> what networks see."""
    prepared: dict[str, Tensor] = {}
    for key, value in obs.items():
        if value.dtype == torch.uint8:
            value = value.movedim(-1, -3).float().div_(255.0)
        elif value.dtype == torch.float64:
            value = value.float()
        if stats is not None and key in stats:
            value = (value - stats[key]["offset"]) / stats[key]["scale"]
        prepared[key] = value
    return prepared
