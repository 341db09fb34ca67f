"""What the fork server imports once, so that a training process is there in milliseconds.

What an optimiser imports of torch takes longer than a test's whole run. W&B is left out: it makes
files at its import that each process must have for itself.
"""

from __future__ import annotations

import importlib
import pkgutil

import torch

import rmexp

MODULES = (
    "h5py",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra._internal.core_plugins.basic_sweeper",
    "pydantic",
    "rich.live",
    "torch._dynamo",
    "torch._inductor",
    "rmexp.cli",
    "rmexp.experiment",
    "tests.faults.reach",
)

torch.set_num_threads(1)
for name in MODULES:
    importlib.import_module(name)
for module in pkgutil.walk_packages(rmexp.__path__, "rmexp."):
    if module.name.startswith(("rmexp.algo.", "rmexp.nets.", "rmexp.loggers.", "rmexp.data.")):
        importlib.import_module(module.name)
