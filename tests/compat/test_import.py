"""Checkpoints of the reference become ours, act the same, and execute nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmexp.arguments import run_command
from rmexp.compat.checkpoint import imported, read
from rmexp.compat.robomimic import algo_from_robomimic, robomimic_nets
from rmexp.errors import CheckpointError, ConfigError
from rmexp.policy import Policy
from rmexp.tools.import_robomimic import ImportArguments, first_word_is, import_checkpoint
from tests.compat.reference_case import LIFT, UNET

CHECKPOINTS = [
    "bc_normalized",
    "bc_rnn",
    "v03_td3_bc",
    "v03_bc_transformer",
    "v03_hbc",
    "v03_iris",
]


def imported_policy(path: Path, out: Path) -> Policy:
    words = first_word_is("model", [str(path), f"out={out}"])
    assert run_command(ImportArguments, import_checkpoint, prog="test", argv=words) == 0
    return Policy.load(out, device="cpu")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_policy_acts_as_the_references(golden: Path, tmp_path: Path, name: str) -> None:
    policy = imported_policy(golden / f"robomimic_{name}.pth", tmp_path / "new" / "policy.pt")
    recorded = dict(np.load(golden / f"robomimic_{name}_actions.npz"))
    expected = recorded.pop("expected_actions")
    policy.reset(0, seed=0)
    actions = [policy.act({k: v[i : i + 1] for k, v in recorded.items()}, [0]) for i in range(12)]
    assert abs(np.concatenate(actions) - expected).max() < 1e-6
    assert abs(expected).max() > 1e-2
    assert policy.env_args is not None
    assert policy.env_args["env_name"] == "Lift"
    assert policy.config.dataset.obs_keys == sorted(LIFT)


def test_a_file_that_exists_is_kept(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    out.write_text("mine")
    arguments = ImportArguments(str(golden / "robomimic_bc_rnn.pth"), str(out))
    with pytest.raises(CheckpointError, match="it exists"):
        import_checkpoint(arguments)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda env: env, ""),
        (lambda env: {**env, "env_kwargs": {}}, "no rollouts: env_args of Lift: `env_kwargs` with"),
        (lambda env: {"type": 1}, "no rollouts: the data have no `env_args` with an `env_name`"),
    ],
)
def test_what_a_rollout_will_lack_is_said_in_one_line(
    golden: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
) -> None:
    content = read(golden / "robomimic_bc_rnn.pth")
    env = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}}
    torch.save({**content, "env_metadata": change(env)}, tmp_path / "m.pth")
    imported_policy(tmp_path / "m.pth", tmp_path / "m.pt")
    err = capfd.readouterr().err
    assert err.startswith(f"warning: {tmp_path / 'm.pt'}: {said}" if said else "")
    assert err.count("\n") == (1 if said else 0)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_nothing_is_executed(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = read(golden / "robomimic_bc_rnn.pth")
    torch.save({**content, "variable_state": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError, match="could execute code"):
        read(Path("trap.pth"))
    assert not Path("trapped").exists()


def test_numbers_of_numpy_are_data(golden: Path, tmp_path: Path) -> None:
    """The reference stores its best success rate as one."""
    content = read(golden / "robomimic_bc_rnn.pth")
    best = {"Lift": np.float64(0.5)}
    torch.save({**content, "variable_state": {"best_return": best}}, tmp_path / "m.pth")
    assert read(tmp_path / "m.pth")["variable_state"]["best_return"] == best


@pytest.mark.parametrize("name", ["v03_hbc", "v03_iris"])
def test_a_newer_hierarchy_has_more_levels(golden: Path, name: str) -> None:
    """Since version 0.4 each part's networks lie beside its optimisers."""

    def newer(model: dict[str, Any]) -> dict[str, Any]:
        parts = {k: newer(v) for k, v in model.items() if isinstance(v, dict)}
        return parts or {"nets": model, "optimizers": {}, "lr_schedulers": {}}

    content = read(golden / f"robomimic_{name}.pth")
    old = imported(content)["algo"]["nets"]
    new = imported({**content, "model": newer(content["model"])})["algo"]["nets"]
    assert set(old) == set(new)
    assert all(torch.equal(value, new[key]) for key, value in old.items())


def test_an_actor_that_sees_half_a_subgoal_is_refused(golden: Path) -> None:
    content = read(golden / "robomimic_v03_hbc.pth")
    half = changed(content, "observation.actor.modalities.goal.low_dim", ["object"])
    with pytest.raises(ConfigError, match=r"observation\.actor\.modalities\.goal: in rmexp"):
        imported(half)
    plain = changed(content, "algo.actor.rnn.enabled", False)
    with pytest.raises(ConfigError, match=r"algo\.actor\.rnn\.enabled: in rmexp the actor"):
        imported(plain)
    misspelt = changed(content, "algo.planner.vae.latentdim", 3)
    with pytest.raises(ConfigError, match=r"algo\.planner\.vae\.latentdim: rmexp knows no such"):
        imported(misspelt)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive", "damaged or not a checkpoint|could execute"),
        (None, "no such checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "m.pth")


def test_ours_is_not_one_of_its(tmp_path: Path) -> None:
    torch.save({"config": {}, "algo": {}}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of robomimic: it has no 'model'"):
        read(tmp_path / "m.pth")


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    config = json.loads(content["config"])
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    return {**content, "config": json.dumps(config)}


def test_weights_that_do_not_fit_are_listed(golden: Path) -> None:
    content = read(golden / "robomimic_bc_rnn.pth")
    with pytest.raises(
        CheckpointError, match=r"weight_hh_l0 has shape \(80, 20\), here \(84, 21\)"
    ):
        imported(changed(content, "algo.rnn.hidden_dim", 21))


def test_rotations_are_not_converted_in_silence(golden: Path) -> None:
    content = read(golden / "robomimic_bc_normalized.pth")
    layout = {"normalization": "min_max", "format": "rot_6d"}
    with pytest.raises(CheckpointError, match=r"action_config\.actions\.format is 'rot_6d'"):
        imported(changed(content, "train.action_config.actions", layout))


def test_parts_of_an_action_follow_each_other(golden: Path) -> None:
    content = read(golden / "robomimic_bc_normalized.pth")
    parts = {
        "b": {"scale": [[2.0, 3.0]], "offset": [[0.5, 0.0]]},
        "a": {"scale": [[4.0] * 5], "offset": [[-1.0] * 5]},
    }
    content = changed(content, "train.action_keys", ["b", "a"])
    stats = imported({**content, "action_normalization_stats": parts})["action_stats"]
    assert stats["scale"].tolist() == [2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert stats["offset"].tolist() == [0.5, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0]


def test_another_order_of_observations_is_refused(golden: Path) -> None:
    content = read(golden / "robomimic_bc_rnn.pth")
    shapes = content["shape_metadata"]["all_shapes"]
    turned = dict(reversed(list(shapes.items())))
    with pytest.raises(CheckpointError, match="robomimic sorts them"):
        imported({**content, "shape_metadata": {"all_shapes": turned, "ac_dim": 7}})


def test_diffusion_acts_with_its_averaged_weights(golden: Path) -> None:
    """And its U-Net has the sizes of its weights: the reference does not obey its own `unet`."""
    record = json.loads((golden / "algo_diffusion_policy.json").read_text())
    written = {**record["algo_config"]["unet"], **UNET, "n_groups": 8}
    config = {**record["algo_config"], "unet": written}
    algo = algo_from_robomimic("diffusion_policy", config, LIFT, 7, record["train"])
    nets = {name: torch.from_numpy(value) for name, value in robomimic_nets(algo).items()}
    averaged = {name: value + 1.0 for name, value in nets.items()}
    base = read(golden / "robomimic_bc_rnn.pth")
    reference = json.loads(base["config"])
    reference["algo"], reference["train"] = record["algo_config"], record["train"]
    content = {
        **base,
        "algo_name": "diffusion_policy",
        "config": json.dumps(reference),
        "model": {"nets": nets, "ema": averaged},
    }
    ours = imported(content)
    assert ours["config"]["algo"]["backbone"]["down_dims"] == [16, 24]
    state = ours["algo"]["nets"]
    names = [name for name in state if name.startswith("actor.")]
    assert len(names) == len(nets)
    for name in names:
        average = state[name.replace("actor.", "actor_ema.average.", 1)]
        assert torch.equal(average, state[name] + 1.0)


def test_an_unknown_algorithm_is_named(golden: Path) -> None:
    content = read(golden / "robomimic_bc_rnn.pth")
    with pytest.raises(ConfigError, match="rmexp takes over no 'bcc' of robomimic; did you mean"):
        imported({**content, "algo_name": "bcc"})
