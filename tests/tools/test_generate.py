"""Generated files are functions of task and seed, whoever writes them, interrupted or not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf

from rmexp.arguments import parse
from rmexp.config import asset, config_dir
from rmexp.errors import ConfigError, RolloutError
from rmexp.tools import generate as generate_module
from rmexp.tools.demo_file import MODULES
from rmexp.tools.generate import GenerateArguments, generate
from rmexp.tools.recording import Recording
from rmexp.tools.tasks import TASKS

needs_simulator = pytest.mark.skipif(
    importlib.util.find_spec("robosuite") is None, reason="no simulator"
)


def opened(file: Any) -> Any:
    """An HDF5 file whose groups and datasets are used as the test expects them."""
    return h5py.File(file)


def arguments(out: Path, **changes: Any) -> GenerateArguments:
    words = {"task": "lift", "n": 2, "seed": 0, **changes}
    return parse(
        GenerateArguments, [f"out={out}", *(f"{k}={v}" for k, v in words.items())], prog="generate"
    )


def recording(seed: int, *, behaviour: str = "expert", success: bool = True) -> Recording:
    length = 3 + seed
    frames = np.arange(length + 1, dtype=np.float32)[:, None] + seed
    return Recording(
        seed=seed,
        behaviour=behaviour,
        success=success,
        obs={"object": frames},
        actions=np.full((length, 7), 0.5, dtype=np.float32),
        rewards=np.array([0.0] * (length - 1) + [float(success)], dtype=np.float32),
        states=np.zeros((0, 0)),
        model_xml="",
    )


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A simulator of certain versions, which nobody may start."""
    versions = {"robosuite": "1.5.2", "mujoco": "3.9.0"}

    def nothing_missing(env_args: Any) -> None:
        return None

    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(generate_module, "simulator_missing", nothing_missing)
    return versions


def interrupted_run(out: Path, recordings: list[Recording], **changes: Any) -> Path:
    """What a run leaves that was stopped when these episodes were done."""
    partial = out.with_name(f"{out.name}.partial")
    generate_module._open_partial(partial, arguments(out, **changes))
    for i, episode in enumerate(recordings):
        episode.save(partial / f"episode_{i:06d}.npz")
    return partial


@pytest.mark.usefixtures("simulator")
def test_finished_episodes_of_an_interrupted_run_are_used(tmp_path: Path):
    out = tmp_path / "a.hdf5"
    partial = interrupted_run(out, [recording(0), recording(1)], num_workers=1)

    generate(arguments(out, num_workers=3))

    assert not partial.exists()
    with opened(out) as file:
        data = file["data"]
        assert data.attrs["total"] == 3 + 4
        assert "scripted expert, not human" in data.attrs["source"]
        assert json.loads(data.attrs["env_args"])["env_version"] == "1.5.2"
        assert data.attrs["mujoco_version"] == "3.9.0"
        demo = data["demo_1"]
        assert demo.attrs["num_samples"] == 4
        assert demo["dones"][:].tolist() == [0, 0, 0, 1]
        assert demo["rewards"][:].tolist() == [0, 0, 0, 1]
        assert demo["obs/object"][:, 0].tolist() == [1, 2, 3, 4]
        assert sorted(demo) == ["actions", "dones", "obs", "rewards"]


@pytest.mark.parametrize("changed", ["task", "seed", "layout", "cameras", "camera_size", "mujoco"])
def test_episodes_of_other_settings_are_refused(
    tmp_path: Path, simulator: dict[str, str], changed: str
):
    out = tmp_path / "a.hdf5"
    interrupted_run(out, [recording(0), recording(1)])
    words: dict[str, Any] = {"task": "lift_mixed", "seed": 5, "layout": "full"}
    words |= {"cameras": "[agentview]", "camera_size": 36}
    if changed == "mujoco":
        simulator["mujoco"] = "3.8.0"

    with pytest.raises(ConfigError, match=rf"a\.hdf5\.partial .*\({changed} was .*delete it"):
        generate(arguments(out, **{k: v for k, v in words.items() if k == changed}))
    assert not out.exists()


@pytest.mark.usefixtures("simulator")
def test_mixed_episodes_keep_what_followed_and_how_they_ended(tmp_path: Path):
    out = tmp_path / "a.hdf5"
    behaviours = [behaviour.name for behaviour in TASKS["lift_mixed"].behaviours]
    recordings = [
        recording(i, behaviour=behaviours[i % 3], success=i % 3 == 0 or i > 12) for i in range(20)
    ]
    interrupted_run(out, recordings, task="lift_mixed", n=20)

    generate(arguments(out, task="lift_mixed", n=20))

    with opened(out) as file:
        failed = file["data/demo_1"]
        assert failed["dones"][:].tolist() == [0, 0, 0, 0]
        assert failed["next_obs/object"][:, 0].tolist() == [2, 3, 4, 5]
        masks = {name: {int(x[5:]) for x in mask[:]} for name, mask in file["mask"].items()}
    train = masks.pop("train")
    assert (len(train), len(masks["valid"])) == (18, 2)
    assert train | masks.pop("valid") == set(range(20))
    assert all(members < train for members in masks.values())
    assert len(masks["10_percent"]) == 2
    assert masks["10_percent"] < masks["20_percent"] < masks["50_percent"]
    assert masks["success"] == {i for i in train if recordings[i].success}
    assert masks["failure"] == train - masks["success"]
    assert masks["noisy"] == {i for i in train if i % 3 == 1}


@pytest.mark.usefixtures("simulator")
def test_an_existing_file_is_replaced_only_on_demand(tmp_path: Path):
    out = tmp_path / "a.hdf5"
    out.write_text("precious")
    interrupted_run(out, [recording(0), recording(1)])

    with pytest.raises(ConfigError, match="overwrite=true"):
        generate(arguments(out))
    assert out.read_text() == "precious"
    generate(arguments(out, overwrite="true"))
    assert h5py.is_hdf5(out)


def test_without_a_simulator_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def absent(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", absent)

    with pytest.raises(RolloutError, match="pip install"):
        generate(arguments(tmp_path / "a.hdf5"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["n=0", "num_workers=0", "seed=-1"])
def test_impossible_numbers_are_refused(word: str):
    with pytest.raises(ConfigError, match=word):
        parse(GenerateArguments, ["task=lift", "out=x", word], prog="generate")


# --- with the simulator -------------------------------------------------------------------------


@needs_simulator
@pytest.mark.sim
@pytest.mark.slow
def test_one_process_and_two_write_the_same_bytes_as_the_shipped_file(tmp_path: Path):
    outs = [tmp_path / f"{workers}.hdf5" for workers in (1, 2)]
    for workers, out in enumerate(outs, start=1):
        generate(arguments(out, n=3, num_workers=workers))

    assert outs[0].read_bytes() == outs[1].read_bytes()
    with opened(outs[0]) as new, opened(asset("lift.hdf5")) as shipped:
        versions = {module: importlib.metadata.version(module) for module in MODULES}
        same = all(shipped["data"].attrs[f"{m}_version"] == v for m, v in versions.items())
        for name in ("demo_0", "demo_1", "demo_2"):
            assert new[f"data/{name}"].attrs["success"]
            if same:  # another mujoco gives other episodes
                np.testing.assert_array_equal(
                    new[f"data/{name}/obs/object"][:], shipped[f"data/{name}/obs/object"][:]
                )


@needs_simulator
@pytest.mark.sim
@pytest.mark.slow
def test_the_full_layout_holds_states_model_next_obs_and_images(tmp_path: Path):
    out = tmp_path / "a.hdf5"
    try:
        generate(arguments(out, n=1, layout="full", cameras="[agentview]", camera_size=36))
    except RolloutError as error:
        if "EGL" not in str(error):
            raise
        pytest.skip(str(error))

    with opened(out) as file:
        demo = file["data/demo_0"]
        length = demo.attrs["num_samples"]
        assert demo["states"].shape == (length, 32)
        assert demo["states"].dtype == np.float64
        assert demo["obs/agentview_image"].shape == (length, 36, 36, 3)
        assert demo["obs/agentview_image"].dtype == np.uint8
        assert sorted(demo["obs"]) == sorted(demo["next_obs"])
        for key in demo["obs"]:
            np.testing.assert_array_equal(demo[f"obs/{key}"][1:], demo[f"next_obs/{key}"][:-1])
        model = demo.attrs["model_file"]
        assert 'file="robosuite/models/assets/' in model
        assert "site-packages" not in model
        kwargs = json.loads(file["data"].attrs["env_args"])["env_kwargs"]
        assert (kwargs["camera_names"], kwargs["camera_heights"]) == (["agentview"], 36)


# --- the shipped files --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "num_successes"), [("lift", 200), ("lift_mixed", 137)])
def test_a_shipped_file_is_what_its_configuration_says(name: str, num_successes: int):
    content = Path(asset(f"{name}.hdf5")).read_bytes()
    config = OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")

    assert hashlib.sha256(content).hexdigest() == config.sha256
    assert len(content) < 4e6
    assert b"/site-packages" not in content
    with opened(asset(f"{name}.hdf5")) as file:
        demos = list(file["data"].values())
        assert (len(demos), len(file["mask/train"]), len(file["mask/valid"])) == (200, 180, 20)
        assert sum(demo.attrs["success"] for demo in demos) == num_successes
        assert "scripted expert, not human" in file["data"].attrs["source"]
        seeds = {demo.attrs["seed"] for demo in demos}
        lengths = [len(demo["actions"]) for demo in demos]
        for demo in demos:
            assert demo["dones"][:].sum() == demo.attrs["success"] == demo["rewards"][:].sum()
            assert demo["dones"][-1] == demo.attrs["success"]
            assert np.abs(demo["actions"][:]).max() <= 1.0
    assert seeds == set(range(200))
    assert max(lengths) <= config.horizon
    rollout = OmegaConf.load(config_dir() / "rollout" / "default.yaml")
    assert min(rollout.seed, rollout.final_seed) >= 10_000  # no policy is tested on these starts
