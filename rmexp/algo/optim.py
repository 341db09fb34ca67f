"""How weights move: down a loss, one call a step, and in an average that follows.

A schedule is a function of counters, so that resuming needs nothing but the counters, and so that
its unit is visible: `MultiStep` and `Linear` count epochs, `Cosine` counts gradient steps.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from rmexp.errors import require

M = TypeVar("M", bound=nn.Module)

AT_LEAST_0 = "at least 0 and finite"


class Schedule(ABC):
    """The learning rate's factor as a function of finished epochs and gradient steps."""

    @abstractmethod
    def factor(self, epochs: int, steps: int, total_steps: int) -> float:
        """Factor for the next step, after `epochs` epochs and `steps` of `total_steps` steps."""


class MultiStep(Schedule):
    """Multiply by `decay_factor` after each of `epochs`; an empty list keeps the rate constant."""

    def __init__(self, *, epochs: list[int], decay_factor: float) -> None:
        require(0 <= decay_factor < math.inf, "lr_schedule.decay_factor", decay_factor, AT_LEAST_0)
        self.epochs = epochs
        self.decay_factor = decay_factor

    def factor(self, epochs: int, steps: int, total_steps: int) -> float:
        return self.decay_factor ** sum(epochs >= milestone for milestone in self.epochs)


class Linear(Schedule):
    """From 1 to `decay_factor` in a straight line over the first `num_epochs` epochs."""

    def __init__(self, *, num_epochs: int, decay_factor: float) -> None:
        require(num_epochs >= 1, "lr_schedule.num_epochs", num_epochs, "at least 1")
        require(0 <= decay_factor < math.inf, "lr_schedule.decay_factor", decay_factor, AT_LEAST_0)
        self.num_epochs = num_epochs
        self.decay_factor = decay_factor

    def factor(self, epochs: int, steps: int, total_steps: int) -> float:
        done = min(epochs, self.num_epochs) / self.num_epochs
        return 1.0 + (self.decay_factor - 1.0) * done


class Cosine(Schedule):
    """Linear warm-up over `warmup_steps`, then a cosine to 0 at the run's last gradient step.

    `num_cycles` is in whole periods: 0.5 falls once from 1 to 0 (Loshchilov & Hutter 2017,
    without restarts).
    """

    def __init__(self, *, warmup_steps: int, num_cycles: float) -> None:
        require(warmup_steps >= 0, "lr_schedule.warmup_steps", warmup_steps, "at least 0")
        require(0 <= num_cycles < math.inf, "lr_schedule.num_cycles", num_cycles, AT_LEAST_0)
        self.warmup_steps = warmup_steps
        self.num_cycles = num_cycles

    def factor(self, epochs: int, steps: int, total_steps: int) -> float:
        if steps < self.warmup_steps:
            return steps / max(1, self.warmup_steps)
        done = (steps - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * self.num_cycles * min(done, 1.0))))


class Optimizer:
    """Adam (Kingma & Ba 2015; L2 added to the gradient) or AdamW (decoupled) for one network."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        name: Literal["adam", "adamw"],
        lr: float,
        l2_regularization: float,
        max_grad_norm: float | None,
        schedule: Schedule,
        total_steps: int,
    ) -> None:
        require(0 <= lr < math.inf, "lr", lr, AT_LEAST_0)
        decay = l2_regularization
        require(0 <= decay < math.inf, "l2_regularization", decay, AT_LEAST_0)
        limit = max_grad_norm
        require(limit is None or limit > 0, "max_grad_norm", limit, "above 0, or null for no limit")
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.schedule = schedule
        self.total_steps = total_steps
        self.base_lr = lr
        self.epochs = 0
        self.steps = 0
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
        self.torch = kind(self.parameters, lr=lr, weight_decay=l2_regularization, fused=True)
        kernels = {"adam": torch._fused_adam_, "adamw": torch._fused_adamw_}  # pyright: ignore
        self._kernel: Any = kernels[name]
        self.fused: Callable[..., None] | None = None
        self.counts: list[Tensor] = []
        self._reschedule()

    @property
    def lr(self) -> float:
        return float(self.torch.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> Tensor:
        """Descend `loss` once; returns the gradient's norm before clipping (0-d)."""
        return descend({"net": self}, {"net": loss})["net_grad_norm"]

    def fuse(self) -> None:
        """Once every parameter has moved: `fused` is `self.torch.step()` as one call of a kernel.

        Its hooks and checks would outlast a small net's Adam. `counts` are to be advanced before.
        """
        if len(self.torch.state) < len(self.parameters):
            return
        states = [self.torch.state[p] for p in self.parameters]
        group = self.torch.param_groups[0]
        self.counts = [state["step"] for state in states]
        self.fused = partial(
            self._kernel,
            self.parameters,
            exp_avgs=[state["exp_avg"] for state in states],
            exp_avg_sqs=[state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=self.counts,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def after_step(self) -> None:
        """Advance a schedule that counts steps."""
        self.steps += 1
        self._reschedule()

    def after_epoch(self, epoch: int) -> None:
        """Advance a schedule that counts epochs; `epoch` (from 1) has just ended."""
        self.epochs = epoch
        self._reschedule()

    def _reschedule(self) -> None:
        lr = self.base_lr * self.schedule.factor(self.epochs, self.steps, self.total_steps)
        for group in self.torch.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        return {"torch": self.torch.state_dict(), "epochs": self.epochs, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.torch.load_state_dict(state["torch"])
        self.fused = None  # the state is another one now
        self.epochs, self.steps = state["epochs"], state["steps"]
        self._reschedule()


def descend(optimizers: Mapping[str, Optimizer], losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Step each network that has a loss down that loss, all of them by one backward pass.

    Of the networks that step together, a loss (0-d) may depend on its own alone: their gradients
    are those of the losses' sum.

    Returns:
        {`<name>_grad_norm`: the norm of the network's gradient before clipping, 0-d}.
    """
    parameters = [p for name in losses for p in optimizers[name].parameters]
    for parameter in parameters:  # torch's zero_grad takes 1 % of a small net's step
        parameter.grad = None
    # Not for networks that a loss only passes through.
    torch.autograd.backward(list(losses.values()), inputs=parameters)

    norms: dict[str, Tensor] = {}
    for name in losses:
        optimizer = optimizers[name]
        gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
        each = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norms[f"{name}_grad_norm"] = norm = torch.linalg.vector_norm(torch.stack(each))
        if optimizer.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(optimizer.parameters, optimizer.max_grad_norm, norm)
        if optimizer.fused is not None and len(gradients) == len(optimizer.parameters):
            torch._foreach_add_(optimizer.counts, 1.0)  # pyright: ignore
            optimizer.fused(grads=gradients, lr=optimizer.torch.param_groups[0]["lr"])
        else:
            optimizer.torch.step()
            optimizer.fuse()
    return norms


Maker = Callable[[nn.Module, float, Schedule, float, float | None], Optimizer]


def maker(name: Literal["adam", "adamw"], total_steps: int) -> Maker:
    """For an algorithm's networks: make(net, lr, schedule, l2_regularization, max_grad_norm)."""

    def make(
        net: nn.Module,
        lr: float,
        schedule: Schedule,
        l2_regularization: float,
        max_grad_norm: float | None,
    ) -> Optimizer:
        return Optimizer(
            net.parameters(),
            name=name,
            lr=lr,
            l2_regularization=l2_regularization,
            max_grad_norm=max_grad_norm,
            schedule=schedule,
            total_steps=total_steps,
        )

    return make


class Target(nn.Module, Generic[M]):
    """`net`, a slowly moving copy of `source`, always in evaluation mode and never trained."""

    net: M

    def __init__(self, source: M) -> None:
        super().__init__()
        self.net = copy.deepcopy(source).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Target[M]:
        """It stays in evaluation mode whatever `mode` says."""
        return super().train(False)


@torch.no_grad()
def polyak_update(source: M, target: Target[M], tau: float) -> None:
    """target <- (1 - tau) target + tau source.

    Buffers are copied: a target with the batch statistics of its first day would judge with a
    normalisation that its source has long left.
    """
    ours: list[Tensor] = list(target.net.parameters())
    torch._foreach_lerp_(ours, list(source.parameters()), tau)  # pyright: ignore
    for old, new in zip(target.net.buffers(), source.buffers(), strict=True):
        old.copy_(new)


class EMA(nn.Module):
    """`average` follows `net`, with a decay that warms up; it is never trained itself.

    The decay grows as 1 - (1 + n)^-power, up to `max_decay`, where n is 0 for the first two updates
    and counts on from there. The count is a buffer, so it lies in the checkpoint beside the weights
    it belongs to, and a captured update reads it afresh.

    Args:
        net: the network that is followed.
        power: 2/3 to 4/5; the larger, the longer the memory.
        max_decay: upper bound of the decay.
    """

    updates: Tensor

    def __init__(self, net: nn.Module, *, power: float, max_decay: float) -> None:
        super().__init__()
        self.power = power
        self.max_decay = max_decay
        self.average = copy.deepcopy(net).requires_grad_(False)
        device = next(net.parameters()).device
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards `net`, whose statistics (buffers) are taken over as they are.

        The first two updates, with a decay of 0, copy its weights as well.
        """
        counted = (self.updates - 1).clamp(min=0).double()
        decay = (1.0 - (1.0 + counted).pow(-self.power)).clamp(max=self.max_decay)
        kept = list(self.average.parameters())
        fresh = torch._foreach_mul(list(net.parameters()), (1.0 - decay).float())  # pyright: ignore
        torch._foreach_mul_(kept, decay.float())  # pyright: ignore
        torch._foreach_add_(kept, fresh)  # pyright: ignore
        for mine, theirs in zip(self.average.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
