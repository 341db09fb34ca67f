"""What the reference calls the weights of our networks, one function a network.

Each yields (our name, its name) relative to the network. A tensor of ours can have several names
there, one storage: layers that a recurrent network calls step by step, backbones of cameras. What
the reference stores although it never changes stands as a tensor in place of our name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor, nn

from rmexp.algo.optim import Target
from rmexp.errors import ConfigError
from rmexp.nets.critics import Critic, Critics, DistributionalCritic, Perturbation, Value
from rmexp.nets.encoders import Camera, SpatialSoftmax
from rmexp.nets.mlp import MLP, ObservationEncoder, ObservationMLP
from rmexp.nets.recurrent import RecurrentActor
from rmexp.nets.resnet import ResNet18
from rmexp.nets.samplers import GMMSampler
from rmexp.nets.subgoals import SubgoalMLP, SubgoalVAE
from rmexp.nets.transformer import TransformerActor
from rmexp.nets.unet import UNet
from rmexp.nets.vae import VAE, PriorParameters

Names = Iterator[tuple[str | Tensor, str]]


@singledispatch
def names(net: nn.Module) -> Names:
    """(our name, the reference's name) of every tensor of `net` that lies in its state."""
    raise ConfigError(f"{type(net).__name__} is a network that robomimic does not have")


def below(ours: str, theirs: str, pairs: Names) -> Names:
    """`pairs` with the names of the network that holds them in front; "" is the network itself."""
    for a, b in pairs:
        here = f"{ours}.{a}" if ours and isinstance(a, str) else a
        yield here, f"{theirs}.{b}" if theirs else b


def same(ours: str, theirs: str, net: nn.Module) -> Names:
    """A layer whose tensors are called the same on both sides."""
    return below(ours, theirs, ((name, name) for name in net.state_dict()))


@names.register
def _(net: MLP) -> Names:
    for i, layer in enumerate(net.layers):  # an activation stands after each of its layers
        yield from same(f"layers.{i}", f"_model.{2 * i}", layer)


@names.register
def _(net: ObservationMLP) -> Names:
    # Beside what an autoencoder reads, the reference calls observations its condition.
    yield from _encoder("encoder", net.encoder, "condition" if net.inputs_first else "obs")
    yield from below("mlp", "nets.mlp", names(net.mlp))
    yield from same("decoder", "nets.decoder.nets", net.decoder)


@names.register(Critic)
@names.register(Perturbation)
@names.register(SubgoalMLP)
@names.register(Value)
def _(net: Critic | Perturbation | SubgoalMLP | Value) -> Names:
    return below("net", "", names(net.net))


@names.register
def _(net: DistributionalCritic) -> Names:
    for ours, theirs in below("net", "", names(net.net)):
        yield ours, theirs.replace("decoder.nets.logits", "decoder.nets.log_probs")


@names.register
def _(net: GMMSampler) -> Names:
    return below("actor", "", names(net.actor))


@names.register(Critics)
@names.register(nn.ModuleList)
def _(net: nn.ModuleList) -> Names:
    for i, member in enumerate(net):
        yield from below(str(i), str(i), names(member))


@names.register
def _(net: Target) -> Names:  # pyright: ignore[reportMissingTypeArgument]
    return below("net", "", names(net.net))


@names.register
def _(net: RecurrentActor) -> Names:
    yield from _encoder("encoder", net.encoder)
    yield from below("mlp", "nets.mlp", names(net.mlp))
    yield from same("decoder", "nets.decoder.nets", net.decoder)
    per_step = "nets.rnn.per_step_net"
    if len(net.mlp.layers):
        yield from below("mlp", f"{per_step}.0", names(net.mlp))
        yield from same("decoder", f"{per_step}.1.nets", net.decoder)
    else:
        yield from same("decoder", f"{per_step}.nets", net.decoder)
    yield from same("rnn", "nets.rnn.nets", net.rnn)


TRANSFORMER_BLOCK = {
    "qkv": "attention.nets.qkv",
    "attended": "attention.nets.output",
    "wide": "mlp.0",
    "narrow": "mlp.2",
    "attention_norm": "ln1",
    "wide_norm": "ln2",
}


@names.register
def _(net: TransformerActor) -> Names:
    yield from _encoder("encoder", net.encoder)
    yield from same("embed", "nets.embed_encoder", net.embed)
    yield from same("embed_norm", "nets.embed_ln", net.embed_norm)
    length = net.positions().shape[-2]
    causal = torch.ones(length, length).tril()[None, None]
    for i, block in enumerate(net.blocks):
        place = f"nets.transformer.nets.transformer.{i}.nets"
        for ours, theirs in TRANSFORMER_BLOCK.items():
            yield from same(f"blocks.{i}.{ours}", f"{place}.{theirs}", block.get_submodule(ours))
        yield causal, f"{place}.attention.mask"
    yield from same("output_norm", "nets.transformer.nets.output_ln", net.output_norm)
    yield from same("decoder", "nets.decoder.nets", net.decoder)
    if "weight" in net.positions.state_dict():
        learned = net.positions.weight.ndim == 3
        name = "params.embed_timestep" if learned else "nets.embed_timestep.weight"
        yield "positions.weight", name


@names.register
def _(net: VAE) -> Names:
    yield from below("encoder", "_vae.nets.encoder", names(net.encoder))
    yield from below("decoder", "_vae.nets.decoder", names(net.decoder))
    if net.prior_parameters is not None:
        yield from below("prior_parameters", "_vae.nets.prior", names(net.prior_parameters))


@names.register
def _(net: PriorParameters) -> Names:
    yield from same("free", "prior_params", net.free)
    if net.network is not None:
        yield from below("network", "prior_module", names(net.network))


@names.register
def _(net: SubgoalVAE) -> Names:
    for ours, theirs in names.dispatch(VAE)(net):  # there it is the algorithm's own
        yield ours, theirs.removeprefix("_vae.")


@names.register
def _(net: UNet) -> Names:
    """Ours registers the same layers in the same order; only wrappers are named otherwise."""
    for name in net.state_dict():
        theirs = name.replace(".cond_encoder.", ".cond_encoder.1.")
        theirs = re.sub(r"(\.blocks\.\d)\.(\d)\.", r"\1.block.\2.", theirs)
        theirs = re.sub(r"^final_conv\.0\.(\d)\.", r"final_conv.0.block.\1.", theirs)
        yield name, re.sub(r"^(down|up)_modules\.(\d)\.2\.", r"\1_modules.\2.2.conv.", theirs)


@names.register
def _(net: ObservationEncoder) -> Names:
    for i, (camera, keys) in enumerate(zip(net.cameras, net.views, strict=True)):
        for key in keys:
            yield from below(f"cameras.{i}", f"obs_nets.{key}", names(camera))


@names.register
def _(net: Camera) -> Names:
    """Backbone and pool are registered twice there: by themselves and in a sequence."""
    for place in ("backbone.nets", "nets.0.nets"):
        yield from below("backbone", place, _resnet(net.backbone))
    if isinstance(net.pool, SpatialSoftmax):
        for place in ("pool", "nets.1"):
            yield from below("pool", place, names(net.pool))
    pooled = not isinstance(net.pool, nn.Flatten)
    yield from same("linear", f"nets.{3 if pooled else 2}", net.linear)


@names.register
def _(net: SpatialSoftmax) -> Names:
    yield from same("conv", "nets", net.conv)
    yield torch.full((1,), net.temperature), "temperature"
    yield net.grid[None, :, 0], "pos_x"
    yield net.grid[None, :, 1], "pos_y"


RESNET_BLOCK = {
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "shortcut": "downsample",
}


def _resnet(net: ResNet18) -> Names:
    """Its stages are the places 4 to 7 of a sequence, of two blocks each."""
    yield from same("stem.0", "0", net.stem[0])
    yield from same("stem.1", "1", net.stem[1])
    for i, block in enumerate(net.blocks):
        for ours, theirs in RESNET_BLOCK.items():
            place = f"{4 + i // 2}.{i % 2}.{theirs}"
            yield from same(f"blocks.{i}.{ours}", place, block.get_submodule(ours))


def _encoder(ours: str, net: ObservationEncoder, group: str = "obs") -> Names:
    yield from below(ours, f"nets.encoder.nets.{group}", names(net))
    if net.goal is not None:
        yield from below(f"{ours}.goal", "nets.encoder.nets.goal", names(net.goal))
