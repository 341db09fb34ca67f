"""The rest of the reference's configuration: data, loop, rollouts; and the whole as overrides.

What only places a run on a machine (workers, caches, output folders, its loggers) is left to
rmexp's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmexp.compat.composing import changes, words
from rmexp.compat.encoders import keys_of
from rmexp.compat.optimizers import Overrides
from rmexp.compat.options import Options, refuse
from rmexp.compat.translate import algorithm, goal_keys, own_section
from rmexp.errors import ConfigError

MACHINE_EXPERIMENT = (
    "additional_envs",
    "ckpt_path",
    "env",
    "env_meta_update_dict",
    "keep_all_videos",
    "logging",
    "mse",
    "name",
    "render",
    "render_video",
    "rollout.terminate_on_success",
    "rollout.warmstart",
    "save.enabled",
    "save.epochs",
    "save.every_n_seconds",
    "save.on_best_rollout_return",
    "save.on_best_rollout_success_rate",
    "save.on_best_validation",
    "video_skip",
)
MACHINE_TRAIN = (
    "action_keys",
    "cuda",
    "dataset_keys",
    "hdf5_cache_mode",
    "hdf5_load_next_obs",
    "hdf5_use_swmr",
    "normalize_weights_by_ds_size",
    "num_data_workers",
    "output_dir",
)
NORMALIZATIONS = {None: "null", "min_max": "min_max", "gaussian": "gaussian"}


def whole_run(config: Mapping[str, Any]) -> Overrides:
    """Overrides for a complete configuration of the reference.

    Raises:
        ConfigError: names every option that is unknown or has no counterpart.
    """
    for section in ("algo_name", "algo", "train", "experiment", "observation"):
        if section not in config:
            raise ConfigError(
                f"not a configuration of robomimic: it has no {section!r}; it has "
                f"{', '.join(sorted(map(str, config)))}"
            )
    chosen = algorithm(config["algo_name"], config["algo"], config["train"], config["observation"])
    train, experiment = (
        Options("train", config["train"]),
        Options("experiment", config["experiment"]),
    )
    validating = experiment.switch("validate", default=False)
    chosen |= {"dataset.obs_keys": obs_keys(config)} | _dataset(train, validating)
    chosen |= _goals(train, config["observation"]) | _loop(train, experiment, validating)
    train.ignore(*MACHINE_TRAIN, "max_grad_norm")
    experiment.ignore(*MACHINE_EXPERIMENT)
    refuse(train, experiment)
    return chosen


def obs_keys(config: Mapping[str, Any]) -> list[str]:
    """The observations that its networks see."""
    return keys_of(Options("observation", own_section(config["observation"])), "obs")


def data_paths(
    train: Mapping[str, Any], instead: str | None = None
) -> tuple[list[str], list[float]]:
    """Files and their weights: one path up to version 0.3, a list of entries since."""
    data = train.get("data") if instead is None else instead
    listed: list[Any] = list(data) if isinstance(data, (list, tuple)) else [data]
    entries = [e if isinstance(e, Mapping) else {"path": e} for e in listed if e is not None]
    return [str(e["path"]) for e in entries], [float(e.get("weight", 1.0)) for e in entries]


def command(overrides: Overrides, paths: list[str], weights: list[float]) -> list[str]:
    """The words of a command line: groups, data files, and values that are not rmexp's own."""
    said = dict(overrides)
    if paths:
        said["dataset.path"] = paths[0] if len(paths) == 1 else paths
    if len(set(weights)) > 1:
        said["dataset.weights"] = weights
    for length in ("frame_stack", "seq_length"):  # the data follow an algorithm that says it
        if f"algo.{length}" in said or said[f"dataset.{length}"] == 1:
            del said[f"dataset.{length}"]
    return words({"algo": said["algo"], "dataset": "hdf5", **changes(said)})


def _dataset(train: Options, validating: bool) -> Overrides:
    train.ignore("data")
    valid_filter = train.word_or_null("hdf5_validation_filter_key")
    overrides: Overrides = {
        "dataset.train_filter": train.word_or_null("hdf5_filter_key"),
        "dataset.valid_filter": valid_filter if validating else None,
        "dataset.valid_fraction": 0,
        "dataset.normalize_obs": train.switch("hdf5_normalize_obs", default=False),
        "dataset.normalize_actions": _action_normalization(train),
        "dataset.frame_stack": train.integer("frame_stack", default=1),
        "dataset.seq_length": train.integer("seq_length", default=1),
        "dataset.pad_frame_stack": train.switch("pad_frame_stack", default=True),
        "dataset.pad_seq_length": train.switch("pad_seq_length", default=True),
    }
    return overrides


def _goals(train: Options, observation: Mapping[str, Any]) -> Overrides:
    """A goal there is any choice of keys; in our data it is the whole last observation."""
    mode = train.word("goal_mode", {None: "null", "last": "last"}, default=None)
    goals = goal_keys(observation)
    if goals and (goals, mode) != (obs_keys({"observation": observation}), "last"):
        train.complain("goal_mode", "with goals it is 'last', and they have the keys of obs")
    return {"dataset.goal_mode": "last" if goals else None}


def _action_normalization(train: Options) -> str | None:
    found = train.word("action_config.actions.normalization", NORMALIZATIONS, default=None)
    train.only("action_config.actions.format", None, default=None)
    return None if found in (None, "null") else found


def _loop(train: Options, experiment: Options, validating: bool) -> Overrides:
    rolls = experiment.switch("rollout.enabled", default=True)
    valid_steps = experiment.integer_or_null("validation_epoch_every_n_steps", default=None)
    overrides: Overrides = {
        "loop.num_epochs": train.integer("num_epochs", default=2000),
        "loop.steps_per_epoch": experiment.integer_or_null("epoch_every_n_steps", default=None),
        "loop.batch_size": train.integer("batch_size", default=100),
        "loop.validate_every": int(validating),
        "loop.valid_steps": valid_steps if validating else None,
        "loop.rollout_every": experiment.integer("rollout.rate", default=50),
        "loop.save_every": experiment.integer_or_null("save.every_n_epochs", default=None) or 0,
        "dataset.horizon": experiment.integer("rollout.horizon", default=400),
        "rollout.num_episodes": experiment.integer("rollout.n", default=50),
        "seed": train.integer("seed", default=0),
    }
    if rolls:
        return overrides
    del overrides["rollout.num_episodes"], overrides["loop.rollout_every"]
    return {"rollout": "none", **overrides}
