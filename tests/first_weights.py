"""Where the recorded cases `algo_*` started: their files hold the last weights alone.

They were recorded after `torch.manual_seed(17)`: drawing again, in the reference's order, gives the
first ones.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from rmexp.algo.base import Algo
from rmexp.algo.cql import CQL
from rmexp.algo.iql import IQL
from rmexp.algo.optim import EMA, Target
from rmexp.nets.critics import Critics, start_small
from rmexp.nets.transformer import INIT_STD, TransformerActor
from rmexp.nets.unet import UNet

SEED = 17


def draw_first_weights(algo: Algo) -> None:
    """Give `algo`, which has not been trained yet, the first weights of the recorded case."""
    torch.manual_seed(SEED)
    for name, net in algo.nets.items():
        if not isinstance(net, Target | EMA):
            _draw(net)
        if name == "actor" and isinstance(algo, CQL | IQL):
            start_small(algo.actor.decoder, 0.001)
    for name, net in algo.nets.items():
        if isinstance(net, Target):
            source = algo.nets[name.removesuffix("_target")]
            net.net.load_state_dict(source.state_dict())


def _draw(net: nn.Module) -> None:
    match net:
        case Critics():
            for critic in net:  # a target is drawn beside each, before it becomes its copy
                _reset(critic, copy.deepcopy(critic))
        case TransformerActor():
            _reset(net.embed, copy.deepcopy(net.blocks))
            for weight in (p for p in net.blocks.parameters() if p.ndim > 1):
                nn.init.normal_(weight, std=INIT_STD)
            _reset(net.decoder)
        case nn.ModuleDict(denoiser=UNet() as unet):
            _reset(unet.diffusion_step_encoder, unet.mid_modules, unet.down_modules)
            _reset(unet.up_modules, unet.final_conv)
        case _:
            _reset(net)


def _reset(*nets: nn.Module) -> None:
    """Draw layers as torch does, in the order of their registration."""
    for net in nets:
        for module in net.modules():
            if reset := getattr(module, "reset_parameters", None):
                reset()
