"""The reference's goal predictor and the algorithms that contain it in our words.

There as here the parts are algorithms themselves, whose options lie below the whole's.
"""

from __future__ import annotations

from rmexp.compat.cloning import bc, vae
from rmexp.compat.encoders import encoder, keys_of
from rmexp.compat.offline import bcq
from rmexp.compat.optimizers import Overrides, optimizer, optimizer_type
from rmexp.compat.options import Options

MODES = {"separate": "separate", "cascade": "cascade"}
ACTORS = ("bc_rnn", "bc_rnn_gmm")


def gl(options: Options, train: Options) -> Overrides:
    variational = options.switch("vae.enabled", default=False)
    horizon = options.integer("subgoal_horizon")
    overrides: Overrides = {
        "algo": "gl_vae" if variational else "gl",
        "algo.subgoal_horizon": horizon,
        "algo.seq_length": train.integer("seq_length", default=horizon),
        **optimizer_type(options, "goal_network"),
        **optimizer(options, "goal_network"),
    }
    node = "algo.subgoal_model."
    if variational:
        options.ignore("ae")
        return overrides | vae(options, "vae", node, f"algo/prior@{node}prior")
    options.ignore("vae")
    return overrides | {f"{node}layer_dims": options.integers("ae.planner_layer_dims")}


def hbc(options: Options, train: Options) -> Overrides:
    planner = gl(options.section("planner"), train)
    correction = "latent_subgoal.prior_correction"
    latent = options.switch("latent_subgoal.enabled", default=False)
    corrected = options.switch(f"{correction}.enabled", default=False) and latent
    samples = options.integer(f"{correction}.num_samples", default=100)
    return {
        "algo": "hbc",
        **_hierarchy(options, planner),
        "algo.latent_subgoal": latent,
        "algo.prior_correction_samples": samples if corrected else None,
        **inside("planner", planner),
        **inside("actor", _actor(options, train)),
    }


def iris(options: Options, train: Options) -> Overrides:
    planner = gl(options.section("value_planner.planner"), train)
    options.only("latent_subgoal.enabled", False, default=False)
    options.ignore("latent_subgoal.prior_correction")
    return {
        "algo": "iris",
        **_hierarchy(options, planner),
        "algo.num_samples": options.integer("value_planner.num_samples"),
        **inside("planner", planner),
        **inside("value", bcq(options.section("value_planner.value"), train)),
        **inside("actor", _actor(options, train)),
    }


def _hierarchy(options: Options, planner: Overrides) -> Overrides:
    return {
        "algo.mode": options.word("mode", MODES),
        "algo.seq_length": planner["algo.seq_length"],
        "algo.subgoal_update_interval": options.integer("subgoal_update_interval"),
        "algo.actor_sees_subgoal": False,  # unless the section `observation` says so
        "algo.actor_use_random_subgoals": options.switch("actor_use_random_subgoals"),
    }


def _actor(options: Options, train: Options) -> Overrides:
    actor = options.section("actor")
    overrides = bc(actor, train)
    if overrides.get("algo") not in ACTORS:
        actor.complain("rnn.enabled", "in rmexp the actor of a hierarchy is recurrent")
    return overrides


def inside(part: str, overrides: Overrides) -> Overrides:
    """What configures an algorithm by itself, for one that is `part` of another."""
    moved: Overrides = {}
    for key, value in overrides.items():
        group, at, place = key.partition("@")
        if key == "algo":
            moved[f"algo@algo.{part}"] = value
        elif at or "/" in key:
            place = place or f"algo.{group.rpartition('/')[2]}"
            moved[f"{group}@algo.{part}.{place.removeprefix('algo.')}"] = value
        else:
            moved[f"algo.{part}.{key.removeprefix('algo.')}"] = value
    return moved


def gl_sight(seen: Options) -> Overrides:
    """The section `observation` of a goal predictor: its encoders, and what makes a subgoal."""
    subgoal = keys_of(seen, "subgoal")
    seen.ignore("modalities.subgoal")
    return {**encoder(seen), "algo.subgoal_keys": subgoal}


def hbc_sight(seen: Options) -> Overrides:
    return _sight(seen.section("planner"), seen.section("actor"))


def iris_sight(seen: Options) -> Overrides:
    planner, value = seen.section("value_planner.planner"), seen.section("value_planner.value")
    if keys_of(value, "obs") != keys_of(planner, "subgoal"):
        value.complain("modalities.obs", "in rmexp the value function sees what makes a subgoal")
    return {**_sight(planner, seen.section("actor")), **inside("value", encoder(value))}


def _sight(planner: Options, actor: Options) -> Overrides:
    """The actor's goals, which the reference leaves empty by default, say what it sees."""
    subgoal, aim = keys_of(planner, "subgoal"), keys_of(actor, "goal")
    if keys_of(planner, "obs") != keys_of(actor, "obs"):
        actor.complain("modalities.obs", "in rmexp planner and actor see the same observations")
    if aim not in ([], subgoal):
        actor.complain("modalities.goal", "in rmexp the actor sees the whole subgoal or nothing")
    return {
        "algo.actor_sees_subgoal": bool(aim),
        **inside("planner", gl_sight(planner)),
        **inside("actor", encoder(actor)),
    }
