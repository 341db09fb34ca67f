"""`python -m rmexp.evaluate checkpoint=FILE n=50`: how often a checkpoint succeeds.

With the run's own seed it gives the very number that the training reported for that checkpoint:
starts, noise and rounding are the same, whatever the number of simulators.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.arguments import argument, run_command
from rmexp.errors import ConfigError

if TYPE_CHECKING:
    from rmexp.policy import Policy
    from rmexp.rollout.rollouts import Rollouts


@dataclass
class Arguments:
    """Evaluate a checkpoint in the simulator that its data came from."""

    checkpoint: str = argument("a checkpoint file, or a run directory (then its best.pt)")
    n: int | None = argument("episodes; null: as many as the run's final evaluation", default=None)
    seed: int | None = argument(
        "episode i starts from seed + i; null: the starts of the run's final evaluation",
        default=None,
    )
    num_envs: int = argument("simulators, one process each", default=2)
    horizon: int | None = argument("steps an episode may take; null: as in the run", default=None)
    video: str | None = argument(
        "write a video of the first episodes here (mp4 or gif)", default=None
    )
    out: str | None = argument("write the result and every episode here (JSON)", default=None)
    device: str = argument("auto | cpu | cuda", default="auto")
    num_threads: int = argument("CPU threads of torch", default=1)
    trust: list[str] = argument("classes of your own that the checkpoint may name", default=[])


def evaluate(arguments: Arguments) -> None:
    """Run the episodes and print the success rate with its interval."""
    import torch

    from rmexp.policy import Policy

    torch.set_num_threads(arguments.num_threads)
    path = Path(arguments.checkpoint)
    if path.is_dir():
        path = path / "checkpoints" / "best.pt"
    policy = Policy.load(path, trust=arguments.trust, device=arguments.device)
    rollouts = _rollouts(policy, arguments)
    seed = rollouts.final_seed if arguments.seed is None else arguments.seed
    count = rollouts.final_episodes if arguments.n is None else arguments.n
    if count < 1:
        raise ConfigError(f"n={count}: at least 1 episode is needed")
    try:
        result = rollouts.run(
            policy, range(seed, seed + count), Path(arguments.video) if arguments.video else None
        )
    finally:
        rollouts.close()
    _say(f"{path}")
    _say(f"{result.env_name}: success {result}, starts {seed} to {seed + count - 1}")
    if arguments.out:
        content = {"metrics": result.metrics(), "episodes": [asdict(e) for e in result.episodes]}
        Path(arguments.out).write_text(json.dumps(content, indent=2) + "\n")
        _say(f"episodes: {arguments.out}")
    if arguments.video:
        _say(f"video: {arguments.video}")


def _rollouts(policy: Policy, arguments: Arguments) -> Rollouts:
    """The run's own rollouts, or the shipped ones for a run that had none."""
    from omegaconf import OmegaConf

    from rmexp import build
    from rmexp.config import config_dir

    config = policy.config.copy()
    if "_target_" not in config.rollout:
        shipped: Any = OmegaConf.load(config_dir() / "rollout" / "default.yaml")
        config.rollout = shipped
    config.rollout.num_envs = arguments.num_envs
    if arguments.horizon is not None:
        config.rollout.horizon = arguments.horizon
    rollouts = build.rollouts(config, policy.env_args, list(policy.algo.spec.obs_shapes))
    assert rollouts is not None
    return rollouts


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.exit(run_command(Arguments, evaluate, prog="python -m rmexp.evaluate"))
