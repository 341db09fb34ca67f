"""Every shipped choice composes with every other, and passes the check that precedes a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rmexp.build import algo_class, check_config
from rmexp.config import config_dir, register, run_dir, slug

CONF = config_dir()


def choices(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    config = compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    assert isinstance(plain, DictConfig)
    return plain


ALGOS, DATASETS, LOOPS, LOGGING = (choices(g) for g in ("algo", "dataset", "loop", "logging"))


def test_nothing_shipped_was_overlooked() -> None:
    assert {"bc", "bc_gaussian", "bc_gmm"} <= set(ALGOS)
    assert {"lift", "lift_mixed", "hdf5", "lift_ph", "square_mh"} <= set(DATASETS)
    assert LOOPS == ["default", "paper"]
    assert LOGGING == ["none", "tensorboard", "wandb"]


@pytest.fixture(scope="module")
def loops_and_loggers() -> dict[tuple[str, str], tuple[DictConfig, DictConfig]]:
    """Composed once for all: neither group knows of an algorithm or a data set."""
    pairs = {
        (loop, logging): composed(f"loop={loop}", f"logging={logging}")
        for loop, logging in product(LOOPS, LOGGING)
    }
    return {key: (config.loop, config.logging) for key, config in pairs.items()}


@pytest.mark.parametrize("algo", ALGOS)
def test_every_combination_composes(
    algo: str, loops_and_loggers: dict[tuple[str, str], tuple[DictConfig, DictConfig]]
) -> None:
    """Algorithm x data set x loop x logging."""
    seen: set[tuple[str, str, str]] = set()
    for dataset in DATASETS:
        path = ["dataset.path=x.hdf5"] if dataset == "hdf5" else []
        config = composed(f"algo={algo}", f"dataset={dataset}", *path)
        assert config.name == f"{algo}_{dataset}"
        for (loop, logging), (loop_node, logging_node) in loops_and_loggers.items():
            config.loop, config.logging = loop_node, logging_node
            check_config(config)
            seen.add((dataset, loop, logging))
    assert len(seen) == len(DATASETS) * len(LOOPS) * len(LOGGING)


@pytest.mark.parametrize(
    "group", ["experiment", "debug", "rollout", "algo/encoder", "algo/head", "algo/lr_schedule"]
)
def test_every_other_choice_composes(group: str) -> None:
    names = choices(group)
    assert names
    for name in names:
        more = ["algo.lr_schedule.epochs=[3]"] if name == "multistep" else []
        check_config(composed(f"{group}={name}", *more))


def test_sweeps_compose() -> None:
    for name in choices("sweep"):
        config = compose("config", overrides=[f"sweep={name}"], return_hydra_config=True)
        assert config.hydra.mode.name == "MULTIRUN"
        assert config.hydra.sweeper.params


def test_the_table_has_every_algorithm() -> None:
    rows = {name.removeprefix("quick_"): name for name in choices("experiment") if "quick_" in name}
    assert set(ALGOS) == set(rows), "add conf/experiment/quick_<algo>.yaml"
    for algo, name in rows.items():
        config = composed(f"experiment={name}")
        learns_from_rewards = "rewards" in algo_class(config).batch_keys
        assert config.name == f"{algo}_{'lift_mixed' if learns_from_rewards else 'lift'}"


def test_every_choice_and_every_key_is_explained() -> None:
    """A first line that says what the choice is, and one comment a key."""
    checked = 0
    for file in sorted(CONF.rglob("*.yaml")):
        if "hydra" in file.parts:
            continue
        lines = file.read_text().splitlines()
        assert lines[0].startswith("#"), f"{file}: say in the first line what this choice is"
        if "defaults:" in lines and file.parent.name != "algo":
            continue  # its keys are explained where they come from
        for line in lines:
            key, colon, value = line.partition(":")
            if not colon or key.strip() in ("_target_", "defaults") or key.startswith(("#", "  -")):
                continue
            if value.strip() and file.parent.name not in ("sweep", "debug", "experiment"):
                assert "#" in value, f"{file}: explain {key.strip()}"
                checked += 1
    assert checked > 50


def test_the_directory_is_found_from_any_installation(tmp_path: Path) -> None:
    assert (config_dir() / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("algo=bc,seed=1", "algo=bc,seed=1"), ("", "default")],
)
def test_plain_names_stay(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_odd_names_become_directories_that_differ() -> None:
    names = {slug("dataset.path=/a/b"), slug("dataset.path=_a_b"), slug("x" * 300), slug("x" * 301)}
    assert len(names) == 4
    assert all("/" not in name and len(name) < 120 for name in names)


def test_a_resumed_run_stays_where_it_was() -> None:
    assert run_dir(None, "outputs/new") == "outputs/new"
    assert run_dir("outputs/old", "outputs/new") == "outputs/old"
