"""Same command, same weights, bit for bit: what torch needs for that, and how far it goes.

On a CPU it holds for one machine type, one set of package versions and one `num_threads`, whatever
the number of simulators, the loggers, the validation, the hash seed of Python, or interruptions.
Other processors, other versions of torch or another `num_threads` add in another order, and round
differently. On a GPU the default kernels may differ from run to run in their last bits;
`deterministic=true` allows none of those, is slower, and holds for one model of GPU. Of a
simulator's own repeatability see `rmexp.rollout`; what code of yours draws from a clock or an
unseeded generator, nobody can repeat.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from rmexp.errors import ConfigError

WORKSPACES = (":4096:8", ":16:8")
"""Of cuBLAS, with which its products repeat; NVIDIA's documentation knows no others."""
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def prepare_torch(*, num_threads: int | None, deterministic: bool) -> None:
    """Decide how torch rounds; before CUDA starts, because cuBLAS reads its settings then.

    Args:
        num_threads: CPU threads; None leaves the number to torch.
        deterministic: only kernels that repeat; one that cannot raises an error.

    Raises:
        ConfigError: the number is below 1, or it is too late for deterministic CUDA.
    """
    if num_threads is not None:
        if num_threads < 1:
            raise ConfigError(f"num_threads: {num_threads} is too small; at least 1, or null")
        torch.set_num_threads(num_threads)
    if deterministic:
        given = os.environ.get(_WORKSPACE)
        if given is None and torch.cuda.is_initialized():
            raise ConfigError(
                "deterministic: CUDA has started in this process without it; set the variable "
                f"{_WORKSPACE}={WORKSPACES[0]} before the start, or run this job by itself"
            )
        if given not in (None, *WORKSPACES):
            raise ConfigError(
                f"deterministic: {_WORKSPACE}={given} lets products differ from run to run; "
                f"unset it, or give {' or '.join(WORKSPACES)}"
            )
        reserve_workspace()
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False  # it would choose kernels by a clock


def reserve_workspace() -> None:
    """Let products of cuBLAS repeat, for a process that learns too late that they must."""
    os.environ.setdefault(_WORKSPACE, WORKSPACES[0])


def torch_settings() -> dict[str, Any]:
    """What decided how torch rounds, for the provenance of a run."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get(_WORKSPACE),
        "num_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
