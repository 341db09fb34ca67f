"""Where the reference keeps the networks of each algorithm."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor

from rmexp.algo.base import Algo
from rmexp.algo.bc import BC
from rmexp.algo.bc_rnn import BCRNN
from rmexp.algo.bc_transformer import BCTransformer
from rmexp.algo.bc_vae import BCVAE
from rmexp.algo.bcq import BCQ
from rmexp.algo.cql import CQL
from rmexp.algo.diffusion_policy import DiffusionPolicy
from rmexp.algo.gl import GL
from rmexp.algo.hbc import HBC
from rmexp.algo.iql import IQL
from rmexp.algo.iris import IRIS
from rmexp.algo.optim import EMA
from rmexp.algo.td3_bc import TD3BC
from rmexp.compat.names import Names, below, names, same
from rmexp.errors import ConfigError


@singledispatch
def pairs(algo: Algo) -> Names:
    """(our name, the reference's name) of every tensor in `algo.nets`."""
    raise ConfigError(f"{type(algo).__name__} is an algorithm that robomimic does not have")


def all_names(algo: Algo) -> dict[str, list[str]]:
    """Our name of every tensor that both sides have, and all its names in the reference."""
    found: dict[str, list[str]] = {}
    for ours, theirs in pairs(algo):
        if isinstance(ours, str):
            found.setdefault(ours, []).append(theirs)
    own = set(algo.nets.state_dict())
    assert set(found) <= own, f"not in {type(algo).__name__}: {sorted(set(found) - own)}"
    return found


def constants(algo: Algo) -> dict[str, Tensor]:
    """What lies beside the reference's weights and never changes: masks, grids, temperatures."""
    return {theirs: value for value, theirs in pairs(algo) if isinstance(value, Tensor)}


@pairs.register(BC)
@pairs.register(BCRNN)
@pairs.register(BCTransformer)
@pairs.register(BCVAE)
def _(algo: Algo) -> Names:
    return below("actor", "policy", names(algo.nets["actor"]))


@pairs.register(BCQ)
@pairs.register(TD3BC)
def _(algo: Algo) -> Names:
    for name, net in algo.nets.items():
        yield from below(name, name, names(net))


@pairs.register(IQL)
def _(algo: Algo) -> Names:
    for name, net in algo.nets.items():
        yield from below(name, "vf" if name == "value" else name, names(net))


@pairs.register(CQL)
def _(algo: Algo) -> Names:
    for name in ("actor", "critic", "critic_target"):
        yield from below(name, name, names(algo.nets[name]))
    for name in ("entropy_weight", "cql_weight"):  # kept as logarithms; stored if learned
        yield from same(name, f"log_{name}", algo.nets[name])


@pairs.register
def _(algo: GL) -> Names:
    return below("planner", "goal_network", names(algo.planner))


@pairs.register
def _(algo: HBC) -> Names:
    yield from below("planner", "planner", pairs(algo.planner))
    yield from below("actor", "actor", pairs(algo.actor))


@pairs.register
def _(algo: IRIS) -> Names:
    yield from below("planner", "planner.planner", pairs(algo.planner))
    yield from below("value", "planner.value_net", pairs(algo.value))
    yield from below("actor", "actor", pairs(algo.actor))


@pairs.register(DiffusionPolicy)
def _(algo: Algo) -> Names:
    """The averaged weights, which it keeps elsewhere, start as the others, which come last."""
    ema = algo.nets["actor_ema"]
    assert isinstance(ema, EMA)
    for place, net in (("actor_ema.average", ema.average), ("actor", algo.nets["actor"])):
        encoder, denoiser = net.get_submodule("encoder"), net.get_submodule("denoiser")
        yield from below(f"{place}.encoder", "policy.obs_encoder.nets.obs", names(encoder))
        yield from below(f"{place}.denoiser", "policy.noise_pred_net", names(denoiser))
