"""BC against the reference: parameter counts, losses, weights, gradient norms."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.algo.base import Spec
from rmexp.algo.bc import BC
from rmexp.algo.optim import MultiStep
from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.heads import GMM, Deterministic, Gaussian, Head
from tests.algo.golden_case import encoding
from tests.first_weights import draw_first_weights

LIFT = {
    "object": (10,),
    "robot0_eef_pos": (3,),
    "robot0_eef_quat": (4,),
    "robot0_gripper_qpos": (2,),
}
CPU = torch.device("cpu")

# The reference does not write this one setting into its own record.
MAX_GRAD_NORM = {"bc_mixed_loss_clip": 0.5}


def spec(**changes: Any) -> Spec:
    values: dict[str, Any] = {
        "obs_shapes": LIFT,
        "goal_shapes": {},
        "ac_dim": 7,
        "frame_stack": 1,
        "seq_length": 1,
        "total_steps": 10,
        "seed": 0,
    }
    return Spec(**{**values, **changes})


def gmm() -> GMM:
    return GMM(num_modes=5, min_std=1e-4, low_noise_eval=True)


def gaussian() -> Gaussian:
    return Gaussian(init_std=0.1, min_std=0.01, fixed_std=False, low_noise_eval=True)


def deterministic(l2: float = 1.0, l1: float = 0.0, cos: float = 0.0) -> Deterministic:
    return Deterministic(l2_weight=l2, l1_weight=l1, cos_weight=cos)


def bc(head: Head, layer_dims: list[int], **changes: Any) -> BC:
    values: dict[str, Any] = {
        "encoder": encoding(),
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_schedule": MultiStep(epochs=[], decay_factor=1.0),
        "l2_regularization": 0.0,
        "max_grad_norm": None,
        "spec": spec(),
        "device": CPU,
    }
    return BC(actor_layer_dims=layer_dims, head=head, **{**values, **changes})


@pytest.mark.parametrize(
    ("head", "count"),
    [(deterministic(), 1_077_255), (gaussian(), 1_084_430), (gmm(), 1_146_955)],
    ids=["bc", "bc_gaussian", "bc_gmm"],
)
def test_parameter_counts_are_the_references(head: Head, count: int) -> None:
    assert bc(head, [1024, 1024]).num_parameters() == count


class Golden:
    """One recorded case of the reference, in our names."""

    def __init__(self, folder: Path, name: str) -> None:
        self.record: dict[str, Any] = json.loads((folder / f"algo_{name}.json").read_text())
        self.arrays = np.load(folder / f"algo_{name}.npz")
        self.config = self.record["algo_config"]
        self.final = {
            self._name(key.removeprefix("init/")): torch.from_numpy(self.arrays[key])
            for key in self.arrays.files
            if key.startswith("init/")
        }
        self.batch = {
            "obs": {key: torch.from_numpy(self.arrays[f"batch/obs/{key}"]) for key in LIFT},
            "actions": torch.from_numpy(self.arrays["batch/actions"]),
        }
        optim = self.config["optim_params"]["policy"]
        self.algo = bc(
            self._head(),
            self.config["actor_layer_dims"],
            lr=optim["learning_rate"]["initial"],
            optimizer=optim["optimizer_type"],
            l2_regularization=optim["regularization"]["L2"],
            max_grad_norm=MAX_GRAD_NORM.get(name),
        )

    @staticmethod
    def _name(reference: str) -> str:
        name = reference.removeprefix("policy.nets.")
        name = name.replace("mlp._model.0", "mlp.layers.0").replace("mlp._model.2", "mlp.layers.1")
        return name.replace("decoder.nets.", "decoder.")

    def _head(self) -> Head:
        if self.config["gmm"]["enabled"]:
            return gmm()
        if self.config["gaussian"]["enabled"]:
            return gaussian()
        weights = self.config["loss"]
        return deterministic(weights["l2_weight"], weights["l1_weight"], weights["cos_weight"])

    def train(self) -> list[dict[str, float]]:
        """The recorded steps from the recorded start: what is logged at each."""
        draw_first_weights(self.algo)
        rows: list[dict[str, float]] = []
        for _ in self.record["log_info"]:
            batch = self.algo.process_batch_for_training(self.batch)
            batch = self.algo.postprocess_batch_for_training(batch)
            info = self.algo.log_info(self.algo.train_on_batch(batch, epoch=1))
            self.algo.on_gradient_step()
            rows.append({k: float(torch.as_tensor(v).detach()) for k, v in info.items()})
        return rows

    def largest_error(self) -> float:
        """Of the weights, against the recorded last ones."""
        now = self.algo.actor.state_dict()
        return max(float((value - now[key]).abs().max()) for key, value in self.final.items())


@pytest.mark.parametrize("name", ["bc", "bc_mixed_loss_clip", "bc_gaussian", "bc_gmm"])
def test_losses_and_weights_equal_the_references(golden: Path, name: str) -> None:
    case = Golden(golden, name)
    rows = case.train()
    assert case.largest_error() < 1e-5
    names = {
        "Loss": "loss",
        "L2_Loss": "l2_loss",
        "L1_Loss": "l1_loss",
        "Cosine_Loss": "cosine_loss",
        "Log_Likelihood": "log_likelihood",
        "Optimizer/policy0_lr": "optimizer/actor_lr",
    }
    for ours, theirs in zip(rows, case.record["log_info"], strict=True):
        for reference, name_here in names.items():
            if reference in theirs:
                assert ours[name_here] == pytest.approx(theirs[reference], rel=1e-5)
        # The reference logs the square of the norm after clipping, we the norm before it.
        squared = ours["actor_grad_norm"] ** 2
        clipped = min(squared, (case.algo.optimizers["actor"].max_grad_norm or np.inf) ** 2)
        assert clipped == pytest.approx(theirs["Policy_Grad_Norms"], rel=1e-4)


@pytest.mark.parametrize("name", ["bc", "bc_mixed_loss_clip"])
def test_validation_equals_the_references(golden: Path, name: str) -> None:
    case = Golden(golden, name)
    case.algo.actor.load_state_dict(case.final)
    case.algo.set_eval()
    batch = case.algo.process_batch_for_training(case.batch)
    info = case.algo.train_on_batch(batch, epoch=1, validate=True)
    assert float(info["loss"].detach()) == pytest.approx(
        case.record["validate_log_info"]["Loss"], rel=1e-5
    )


@pytest.mark.parametrize("head", [gaussian(), gmm()], ids=["gaussian", "gmm"])
def test_validation_reports_the_true_likelihood(head: Head) -> None:
    """The reference evaluates the density with a standard deviation of 1e-4 instead."""
    algo = bc(head, [13])
    batch = {"obs": {k: torch.randn(5, *s) for k, s in LIFT.items()}, "actions": torch.zeros(5, 7)}
    algo.set_train()
    trained = algo.train_on_batch(batch, epoch=1, validate=True)["loss"]
    algo.set_eval()
    validated = algo.train_on_batch(batch, epoch=1, validate=True)["loss"]
    assert torch.equal(trained, validated)


def test_densities_equal_those_of_torch() -> None:
    from torch import distributions as D

    outputs = {"mean": torch.randn(5, 15), "scale": torch.randn(5, 15), "logits": torch.randn(5, 3)}
    actions = torch.rand(5, 5) * 2 - 1
    head = GMM(num_modes=3, min_std=1e-3, low_noise_eval=True)
    mean = outputs["mean"].view(5, 3, 5).tanh()
    std = torch.nn.functional.softplus(outputs["scale"].view(5, 3, 5)) + 1e-3
    mixture = D.MixtureSameFamily(
        D.Categorical(logits=outputs["logits"]), D.Independent(D.Normal(mean, std), 1)
    )
    expected = mixture.log_prob(actions).mean()
    torch.testing.assert_close(head.losses(outputs, actions)["log_likelihood"], expected)


def test_gmm_acts_with_the_modes_probabilities() -> None:
    n = 4000
    head = GMM(num_modes=2, min_std=1e-4, low_noise_eval=True)
    outputs = {
        "mean": torch.tensor([[-5.0, 5.0]]).repeat(n, 1),
        "scale": torch.zeros(n, 2),
        "logits": torch.tensor([[0.25, 0.75]]).log().repeat(n, 1),
    }
    actions = head.act(outputs, SeededDraws(0, CPU))
    assert actions.shape == (n, 1)
    assert float((actions > 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert float((actions.abs() - np.tanh(5.0)).abs().max()) < 1e-3


@pytest.mark.parametrize("head", [deterministic(), gaussian()], ids=["bc", "gaussian"])
def test_acting_is_the_mean(head: Head) -> None:
    algo = bc(head, [13])
    obs = {k: torch.randn(5, *s) for k, s in LIFT.items()}
    name = "action" if isinstance(head, Deterministic) else "mean"
    torch.testing.assert_close(algo.get_action(obs), torch.tanh(algo.actor(obs)[name]))


def test_noise_of_an_episode_is_its_own() -> None:
    algo = bc(GMM(num_modes=4, min_std=0.1, low_noise_eval=False), [13])
    obs = {k: torch.randn(3, *s) for k, s in LIFT.items()}
    together = algo.get_action(
        obs, draws=EpisodeDraws([SeededDraws(i, CPU) for i in range(3)], CPU)
    )
    for i in (2, 0, 1):
        alone = algo.get_action(
            {k: v[i : i + 1] for k, v in obs.items()},
            draws=EpisodeDraws([SeededDraws(i, CPU)], CPU),
        )
        torch.testing.assert_close(alone[0], together[i])


def test_windows_of_several_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"frame_stack=3, dataset\.seq_length=1"):
        bc(deterministic(), [13], spec=spec(frame_stack=3))


def test_state_survives_bit_for_bit() -> None:
    def batch(i: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(i)
        obs = {k: torch.randn(5, 1, *s, generator=g) for k, s in LIFT.items()}
        return {"obs": obs, "actions": torch.rand(5, 1, 7, generator=g) * 2 - 1}

    def step(algo: BC, i: int) -> None:
        algo.train_on_batch(algo.process_batch_for_training(batch(i)), epoch=1)
        algo.on_gradient_step()

    whole, first = bc(gmm(), [13], lr=1e-2), bc(gmm(), [13], lr=1e-2)
    first.actor.load_state_dict(whole.actor.state_dict())
    for i in range(6):
        step(whole, i)
    for i in range(3):
        step(first, i)
    second = bc(gmm(), [13], lr=1e-2, spec=spec(seed=9))
    second.deserialize(copy.deepcopy(first.serialize()), load_optimizers=True)
    for i in range(3, 6):
        step(second, i)
    for a, b in zip(whole.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)
