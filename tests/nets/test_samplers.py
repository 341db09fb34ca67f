"""Proposals are the mixture's own in training, and near the means of its modes in evaluation."""

from __future__ import annotations

import torch

from rmexp.draws import Draws, EpisodeDraws, SeededDraws
from rmexp.nets.heads import GMM, LOW_NOISE_STD
from rmexp.nets.samplers import GMMSampler, RepeatedDraws
from tests.algo.golden_case import encoding

CPU = torch.device("cpu")


def sampler(low_noise_eval: bool = True) -> GMMSampler:
    torch.manual_seed(0)
    return GMMSampler(
        actor_layer_dims=[7],
        head=GMM(num_modes=3, min_std=1e-4, low_noise_eval=low_noise_eval),
        obs_shapes={"pose": (5,)},
        ac_dim=2,
        encoder=encoding(),
    )


def proposals(
    made: GMMSampler, obs: dict[str, torch.Tensor], times: int, draws: Draws | None = None
) -> torch.Tensor:
    return made.sample(obs, None, draws or SeededDraws(0, CPU), times)["action"]


def test_true_samples_in_training_and_means_in_evaluation() -> None:
    obs = {"pose": torch.randn(1, 5)}
    made = sampler()

    def apart(several: torch.Tensor) -> float:
        """Of proposals of one mode, the typical distance from the nearest other one."""
        points = several[:, 0].detach()
        distance = torch.cdist(points, points).fill_diagonal_(9.0)
        return float(distance.amin(1).median())

    made.train()
    assert apart(proposals(made, obs, 60)) > 100 * LOW_NOISE_STD
    made.eval()
    assert apart(proposals(made, obs, 60)) < LOW_NOISE_STD
    noisy = sampler(low_noise_eval=False).eval()
    assert apart(proposals(noisy, obs, 60)) > 100 * LOW_NOISE_STD


def test_proposals_of_an_episode_are_its_own() -> None:
    made, obs = sampler().eval(), {"pose": torch.randn(3, 5)}

    def of(rows: list[int]) -> torch.Tensor:
        episodes = EpisodeDraws([SeededDraws(row, CPU) for row in rows], CPU)
        return proposals(made, {"pose": obs["pose"][rows]}, 4, RepeatedDraws(episodes, 4))

    together = of([0, 1, 2])
    assert together.shape == (4, 3, 2)
    for row in range(3):
        assert torch.allclose(of([row])[:, 0], together[:, row], atol=1e-6)
