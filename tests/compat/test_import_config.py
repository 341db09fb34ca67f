"""The command line for a configuration of the reference composes to the same settings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from rmexp.build import check_config
from rmexp.compat.checkpoint import read
from rmexp.config import config_dir, register
from rmexp.errors import ConfigError
from rmexp.tools.import_config import ConfigArguments, import_config


def reference(golden: Path, name: str = "bc_rnn") -> dict[str, Any]:
    return json.loads(read(golden / f"robomimic_{name}.pth")["config"])


def printed(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    import_config(ConfigArguments(str(path)))
    words = shlex.split(capsys.readouterr().out.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "rmexp"]
    return words[3:]


def composed(words: list[str]) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[*words, "name=test"])
    check_config(config)
    return config


def test_the_whole_run_is_said(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reference(golden)
    config["experiment"]["validate"] = True
    config["train"]["hdf5_filter_key"] = "train"
    config["train"]["hdf5_validation_filter_key"] = "valid"
    ours = composed(printed(config, tmp_path, capsys))
    assert ours.algo._target_.endswith("BCRNN")
    assert (ours.algo.hidden_dim, ours.algo.seq_length) == (20, 5)
    assert (ours.dataset.seq_length, ours.dataset.path) == (5, "tiny_lift.hdf5")
    assert (ours.dataset.train_filter, ours.dataset.valid_filter) == ("train", "valid")
    assert (ours.loop.num_epochs, ours.loop.steps_per_epoch) == (2000, 100)
    assert (ours.loop.batch_size, ours.loop.valid_steps, ours.loop.rollout_every) == (8, 10, 50)
    assert ours.seed == 1


def test_what_is_rmexps_own_is_not_said(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = printed(reference(golden), tmp_path, capsys)
    keys = [word.partition("=")[0] for word in words]
    assert keys[:2] == ["algo", "dataset"]
    assert "algo.lr" not in keys
    assert "algo/lr_schedule" not in keys
    assert "loop.steps_per_epoch" not in keys


def test_schedules_and_statistics(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reference(golden, "bc_normalized")
    rate = config["algo"]["optim_params"]["policy"]["learning_rate"]
    rate |= {"epoch_schedule": [300, 600], "decay_factor": 0.5}
    ours = composed(printed(config, tmp_path, capsys))
    assert ours.algo.lr_schedule.epochs == [300, 600]
    assert ours.algo.lr_schedule.decay_factor == 0.5
    assert (ours.dataset.normalize_obs, ours.dataset.normalize_actions) == (True, "min_max")


def test_paths_that_need_quotes(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reference(golden)
    paths = ["/data/a b=c,'d'.hdf5", "other.hdf5"]
    config["train"]["data"] = [{"path": paths[0], "weight": 0.7}, {"path": paths[1], "weight": 0.3}]
    ours = composed(printed(config, tmp_path, capsys))
    assert (ours.dataset.path, ours.dataset.weights) == (paths, [0.7, 0.3])


def test_no_rollouts(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = reference(golden)
    config["experiment"]["rollout"]["enabled"] = False
    assert "rollout=none" in printed(config, tmp_path, capsys)


def test_everything_wrong_is_listed(golden: Path, tmp_path: Path) -> None:
    config = reference(golden)
    config["train"] |= {"goal_mode": "first", "batchsize": 3}
    config["experiment"]["epochs"] = 3
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"train\.batchsize: rmexp knows no such option"):
        import_config(ConfigArguments(str(path)))
    del config["train"]["batchsize"]
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError) as refusal:
        import_config(ConfigArguments(str(path)))
    assert "train.goal_mode: it is 'first'" in str(refusal.value)
    assert "experiment.epochs: rmexp knows no such option" in str(refusal.value)


def test_goals_are_the_last_observation(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reference(golden)
    modalities = config["observation"]["modalities"]
    modalities["goal"] = modalities["obs"]
    config["train"]["goal_mode"] = "last"
    assert composed(printed(config, tmp_path, capsys)).dataset.goal_mode == "last"
    modalities["goal"] = {"low_dim": ["object"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"train\.goal_mode: with goals it is 'last'"):
        import_config(ConfigArguments(str(tmp_path / "config.json")))


def test_a_hierarchy_is_said_part_by_part(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = printed(reference(golden, "v03_iris"), tmp_path, capsys)
    ours = composed(words)
    assert ours.algo._target_.endswith("IRIS")
    assert (ours.algo.seq_length, ours.dataset.seq_length, ours.algo.num_samples) == (5, 5, 5)
    assert ours.algo.actor_sees_subgoal is False
    assert ours.algo.planner.subgoal_model.latent_dim == 3
    assert ours.algo.value.critic.layer_dims == [7, 9]
    assert (ours.algo.actor.hidden_dim, ours.algo.actor.seq_length) == (6, 5)
    assert not [word for word in words if word.startswith("algo.value.discount")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "not a configuration"), ('{"a": 1}', "it has no 'algo_name'")],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        import_config(ConfigArguments(str(path)))
