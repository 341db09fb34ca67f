"""What the fork server imports once, so that a training process is there in milliseconds."""

from __future__ import annotations

import importlib
import pkgutil

import h5py  # noqa: F401
import hydra._internal.core_plugins.basic_launcher
import hydra._internal.core_plugins.basic_sweeper  # noqa: F401
import pydantic  # noqa: F401 - W&B wants it; W&B itself has files of each process's own
import rich.live  # noqa: F401
import torch
import torch._dynamo
import torch._inductor  # what an optimiser imports takes longer than a test's whole run

import rmexp
import rmexp.cli
import rmexp.experiment
from tests.faults import reach  # noqa: F401

torch.set_num_threads(1)
for module in pkgutil.walk_packages(rmexp.__path__, "rmexp."):
    if module.name.startswith(("rmexp.algo.", "rmexp.nets.", "rmexp.loggers.", "rmexp.data.")):
        importlib.import_module(module.name)
