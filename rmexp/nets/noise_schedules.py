"""How actions are drowned in noise while training and recovered from it while acting.

The forward process q(x_k | x_0) = N(sqrt(abar_k) x_0, (1 - abar_k) I) is that of DDPM (Ho et al.
2020, arXiv 2006.11239); acting walks it backwards, either by its posterior (DDPM) or along the
deterministic path of DDIM (Song et al. 2021, arXiv 2010.02502). All tables are made in double
precision: the last of them holds numbers near 1e-9.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.errors import ConfigError

Betas = Literal["squared_cosine", "linear", "scaled_linear"]
Prediction = Literal["noise", "actions", "velocity"]

MAX_BETA = 0.999
COSINE_OFFSET = 0.008


def betas(name: Betas, steps: int, start: float, end: float) -> Tensor:
    """The noise variances beta_0 .. beta_{steps - 1}, float64.

    `squared_cosine` is that of Nichol & Dhariwal 2021 (arXiv 2102.09672), with their offset and
    bound; `linear` runs from `start` to `end` as in Ho et al. 2020, `scaled_linear` does so in the
    square roots, as in Rombach et al. 2022.
    """
    if name == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()

    def signal(k: int) -> float:
        angle = (k / steps + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * math.pi / 2.0
        return math.cos(angle) ** 2

    ratios = [1.0 - signal(k + 1) / signal(k) for k in range(steps)]
    return torch.tensor(ratios, dtype=torch.float64).clamp(max=MAX_BETA)


class NoiseSchedule(nn.Module, ABC):
    """The numbers of the forward process, which all share; how to walk back is the subclass's.

    Args:
        num_train_steps: K, length of the forward process.
        num_inference_steps: denoising steps when acting; at most K, spread evenly over it.
        beta_schedule: see `betas`.
        beta_start: first beta of the linear ones.
        beta_end: last beta of the linear ones.
        prediction: what the network answers with: the noise, the clean actions, or the velocity
            sqrt(abar) noise - sqrt(1 - abar) actions (Salimans & Ho 2022).
        clip_sample: keep the estimate of the clean actions inside [-1, 1] when acting.
    """

    signal: Tensor
    """sqrt(abar) of every step, (K, 1, 1)."""
    noise: Tensor
    """sqrt(1 - abar) of every step, (K, 1, 1)."""

    def __init__(
        self,
        *,
        num_train_steps: int,
        num_inference_steps: int,
        beta_schedule: Betas,
        beta_start: float,
        beta_end: float,
        prediction: Prediction,
        clip_sample: bool,
    ) -> None:
        super().__init__()
        if not 1 <= num_inference_steps <= num_train_steps:
            raise ConfigError(
                f"algo.noise_schedule.num_inference_steps={num_inference_steps}: it must lie "
                f"between 1 and num_train_steps={num_train_steps}"
            )
        self.num_train_steps = num_train_steps
        self.prediction = prediction
        self.clip_sample = clip_sample
        self.stride = num_train_steps // num_inference_steps
        self.inference_steps = [k * self.stride for k in reversed(range(num_inference_steps))]

        alpha_bar = (1.0 - betas(beta_schedule, num_train_steps, beta_start, beta_end)).cumprod(0)
        self.alpha_bar: list[float] = alpha_bar.tolist()
        self.register_buffer("signal", alpha_bar.sqrt().float()[:, None, None], persistent=False)
        rest = (1.0 - alpha_bar).sqrt().float()
        self.register_buffer("noise", rest[:, None, None], persistent=False)

    @abstractmethod
    def denoise(self, noisy: Tensor, predicted: Tensor, step: int, draws: Draws) -> Tensor:
        """One step back: x_step (B, T, A) and the network's answer to it -> x_{step - stride}."""

    def estimate(self, noisy: Tensor, predicted: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """x_step and the network's answer -> the clean actions and the noise that it stands for."""
        signal, amount = self.alpha_bar[step] ** 0.5, (1.0 - self.alpha_bar[step]) ** 0.5
        if self.prediction == "noise":
            actions, noise = (noisy - amount * predicted) / signal, predicted
        elif self.prediction == "actions":
            actions, noise = predicted, (noisy - signal * predicted) / amount
        else:
            actions = signal * noisy - amount * predicted
            noise = amount * noisy + signal * predicted
        return (actions.clamp(-1.0, 1.0) if self.clip_sample else actions), noise


class DDPM(NoiseSchedule):
    """Walk back by the posterior q(x_{k-1} | x_k, x_0), eq. 7 of Ho et al. 2020."""

    def denoise(self, noisy: Tensor, predicted: Tensor, step: int, draws: Draws) -> Tensor:
        actions, _ = self.estimate(noisy, predicted, step)
        before = step - self.stride
        now, then = self.alpha_bar[step], self.alpha_bar[before] if before >= 0 else 1.0
        alpha = now / then
        beta = 1.0 - alpha

        from_actions = then**0.5 * beta / (1.0 - now)
        from_noisy = alpha**0.5 * (1.0 - then) / (1.0 - now)
        mean = from_actions * actions + from_noisy * noisy
        if before < 0:
            return mean
        std = (beta * (1.0 - then) / (1.0 - now)) ** 0.5
        return mean + std * draws.randn(mean.shape)


class DDIM(NoiseSchedule):
    """Walk back along the deterministic path, eq. 12 of Song et al. 2021 with sigma = 0.

    Args:
        final_signal_is_one: the last step answers with the clean actions; otherwise it stops at
            the first step's noise.
        steps_offset: added to every step at which the network is asked.
    """

    def __init__(
        self,
        *,
        num_train_steps: int,
        num_inference_steps: int,
        beta_schedule: Betas,
        beta_start: float,
        beta_end: float,
        prediction: Prediction,
        clip_sample: bool,
        final_signal_is_one: bool,
        steps_offset: int,
    ) -> None:
        super().__init__(
            num_train_steps=num_train_steps,
            num_inference_steps=num_inference_steps,
            beta_schedule=beta_schedule,
            beta_start=beta_start,
            beta_end=beta_end,
            prediction=prediction,
            clip_sample=clip_sample,
        )
        first = self.inference_steps[0] + steps_offset
        if steps_offset < 0 or first >= num_train_steps:
            raise ConfigError(
                f"algo.noise_schedule.steps_offset={steps_offset}: the first denoising step would "
                f"be {first}, outside 0 to num_train_steps - 1 = {num_train_steps - 1}"
            )
        self.inference_steps = [step + steps_offset for step in self.inference_steps]
        self.final_alpha_bar = 1.0 if final_signal_is_one else self.alpha_bar[0]

    def denoise(self, noisy: Tensor, predicted: Tensor, step: int, draws: Draws) -> Tensor:
        actions, noise = self.estimate(noisy, predicted, step)
        before = step - self.stride
        then = self.alpha_bar[before] if before >= 0 else self.final_alpha_bar
        return then**0.5 * actions + (1.0 - then) ** 0.5 * noise
