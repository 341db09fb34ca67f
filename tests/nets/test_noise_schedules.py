"""Noise schedules against the formulas they were published with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.noise_schedules import DDIM, DDPM, NoiseSchedule, Prediction, betas

CPU = torch.device("cpu")
SHAPE = (5, 3, 7)


def options(**changes: Any) -> dict[str, Any]:
    values = {
        "num_train_steps": 100,
        "num_inference_steps": 100,
        "beta_schedule": "squared_cosine",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction": "noise",
        "clip_sample": False,
    }
    return {**values, **changes}


def ddim(**changes: Any) -> DDIM:
    return DDIM(**options(**{"final_signal_is_one": True, "steps_offset": 0, **changes}))


def test_squared_cosine() -> None:
    """Nichol & Dhariwal 2021, eq. 17: abar_t = f(t) / f(0), beta_t at most 0.999."""
    found = betas("squared_cosine", 100, 1e-4, 0.02)

    def f(t: int) -> float:
        return math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    assert found.dtype == torch.float64
    assert found[0] == pytest.approx(1 - f(1) / f(0), rel=1e-12)
    assert found[49] == pytest.approx(1 - f(50) / f(49), rel=1e-12)
    assert found[99] == 0.999
    abar = (1 - found).cumprod(0)
    for t in range(99):
        assert abar[t] == pytest.approx(f(t + 1) / f(0), rel=1e-9)


def test_linear_schedules() -> None:
    """Ho et al. 2020: from 1e-4 to 0.02 over 1000 steps, leaving abar_T of about 4e-5."""
    linear = betas("linear", 1000, 1e-4, 0.02)
    np.testing.assert_allclose(linear, np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    assert float((1 - linear).prod()) == pytest.approx(4.036e-5, rel=1e-3)
    scaled = betas("scaled_linear", 1000, 8.5e-4, 0.012)
    np.testing.assert_allclose(scaled, np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2, rtol=1e-12)


@pytest.mark.parametrize("prediction", ["noise", "actions", "velocity"])
def test_what_is_predicted_stands_for_actions_and_noise(prediction: Prediction) -> None:
    schedule = DDPM(**options(prediction=prediction))
    actions, noise = torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
    for step in (0, 31, 80):
        signal, amount = schedule.signal[step], schedule.noise[step]
        abar = schedule.alpha_bar[step]
        assert float(signal) == pytest.approx(abar**0.5)
        assert float(amount) == pytest.approx((1 - abar) ** 0.5)
        noisy = signal * actions + amount * noise
        predicted = {
            "noise": noise,
            "actions": actions,
            "velocity": signal * noise - amount * actions,
        }[prediction]
        found, found_noise = schedule.estimate(noisy, predicted, step)
        torch.testing.assert_close(found, actions, atol=2e-5, rtol=0)
        torch.testing.assert_close(found_noise, noise, atol=5e-4, rtol=0)


def test_ddpm_steps_by_the_posterior() -> None:
    """Ho et al. 2020, eq. 7, with neighbouring steps: mean and variance."""
    schedule = DDPM(**options())
    beta = betas("squared_cosine", 100, 0, 0)
    abar = (1 - beta).cumprod(0)
    t = 40
    x, noise_prediction = torch.randn(SHAPE), torch.randn(SHAPE)
    x0 = (x - (1 - abar[t]).sqrt() * noise_prediction) / abar[t].sqrt()
    mean = abar[t - 1].sqrt() * beta[t] / (1 - abar[t]) * x0
    mean = mean + (1 - beta[t]).sqrt() * (1 - abar[t - 1]) / (1 - abar[t]) * x
    variance = (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]
    expected = mean + variance.sqrt() * SeededDraws(3, CPU).randn(SHAPE)
    found = schedule.denoise(x, noise_prediction, t, SeededDraws(3, CPU))
    torch.testing.assert_close(found, expected.float())
    assert schedule.inference_steps == list(range(99, -1, -1))


def test_the_last_step_of_ddpm_is_not_noisy() -> None:
    schedule = DDPM(**options())
    x, predicted = torch.randn(SHAPE), torch.randn(SHAPE)
    a, b = (schedule.denoise(x, predicted, 0, SeededDraws(seed, CPU)) for seed in (1, 2))
    assert torch.equal(a, b)
    torch.testing.assert_close(a, schedule.estimate(x, predicted, 0)[0])


def test_ddim_steps_along_its_path() -> None:
    """Song et al. 2021, eq. 12 with sigma = 0."""
    schedule = ddim(num_inference_steps=10)
    assert schedule.inference_steps == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    abar = torch.tensor(schedule.alpha_bar, dtype=torch.float64)
    x, predicted = torch.randn(SHAPE), torch.randn(SHAPE)
    x0 = (x - (1 - abar[50]).sqrt() * predicted) / abar[50].sqrt()
    expected = abar[40].sqrt() * x0 + (1 - abar[40]).sqrt() * predicted
    found = schedule.denoise(x, predicted, 50, SeededDraws(0, CPU))
    torch.testing.assert_close(found, expected.float())
    x0 = (x - (1 - abar[0]).sqrt() * predicted) / abar[0].sqrt()
    torch.testing.assert_close(schedule.denoise(x, predicted, 0, SeededDraws(0, CPU)), x0.float())


def test_ddim_may_stop_at_the_first_steps_noise() -> None:
    schedule = ddim(num_inference_steps=10, final_signal_is_one=False, steps_offset=3)
    assert schedule.inference_steps[0] == 93
    assert schedule.inference_steps[-1] == 3
    abar = schedule.alpha_bar
    x, predicted = torch.randn(SHAPE), torch.randn(SHAPE)
    x0 = (x - (1 - abar[3]) ** 0.5 * predicted) / abar[3] ** 0.5
    expected = abar[0] ** 0.5 * x0 + (1 - abar[0]) ** 0.5 * predicted
    torch.testing.assert_close(schedule.denoise(x, predicted, 3, SeededDraws(0, CPU)), expected)


@pytest.mark.parametrize("schedule", [DDPM(**options(clip_sample=True)), ddim(clip_sample=True)])
def test_clean_actions_stay_in_bounds(schedule: NoiseSchedule) -> None:
    actions, _ = schedule.estimate(torch.full(SHAPE, 5.0), torch.zeros(SHAPE), 60)
    assert float(actions.max()) == 1.0


@pytest.mark.parametrize(
    "schedule",
    [DDPM(**options()), ddim(), ddim(num_inference_steps=20)],
    ids=["ddpm", "ddim", "ddim of 20"],
)
def test_sampling_recovers_a_gaussian(schedule: NoiseSchedule) -> None:
    """With the best predictor of N(m, s^2) data, samples are N(m, s^2)."""
    mean, std, n = 0.3, 0.2, 4000
    draws = SeededDraws(0, CPU)
    x = draws.randn((n, 1, 1))
    for step in schedule.inference_steps:
        abar = schedule.alpha_bar[step]
        total = abar * std**2 + 1 - abar
        predicted = (1 - abar) ** 0.5 * (x - abar**0.5 * mean) / total
        x = schedule.denoise(x, predicted, step, draws)
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    assert float(x.std()) == pytest.approx(std, abs=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM(**options(num_inference_steps=101)), "num_inference_steps=101"),
        (lambda: DDPM(**options(num_inference_steps=0)), "num_inference_steps=0"),
        (lambda: ddim(steps_offset=1), "steps_offset=1"),
        (lambda: ddim(steps_offset=-1), "steps_offset=-1"),
    ],
)
def test_steps_that_do_not_exist_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
