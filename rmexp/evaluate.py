"""`python -m rmexp.evaluate checkpoint=FILE n=50`: how often a checkpoint succeeds.

With the run's own seed it gives the very number that the training reported for that checkpoint:
starts, noise and rounding are the same, whatever the number of simulators.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmexp.arguments import argument, run_command
from rmexp.errors import ConfigError, RolloutError
from rmexp.rollout.video import SUFFIXES

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
    device: str | None = argument("auto | cpu | cuda; null: as in the run", default=None)
    num_threads: int | None = argument("CPU threads of torch; null: as in the run", default=None)
    trust: list[str] = argument("classes of your own that the checkpoint may name", default=[])


def evaluate(arguments: Arguments) -> None:
    """Run the episodes and print the success rate with its interval."""
    from rmexp.determinism import reserve_workspace
    from rmexp.policy import Policy

    reserve_workspace()  # the checkpoint decides, and may lie on the GPU by then
    _check_numbers(arguments)
    video, out = (_output(arguments, name) for name in ("video", "out"))
    path = Path(arguments.checkpoint).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "best.pt"
    policy = Policy.load(path, trust=arguments.trust, device=arguments.device)
    if reason := policy.algo.cannot_roll_out():
        raise ConfigError(f"{path}: {reason}")
    _prepare_torch(policy, arguments)
    rollouts = _rollouts(policy, arguments)
    seed = rollouts.final_seed if arguments.seed is None else arguments.seed
    count = rollouts.final_episodes if arguments.n is None else arguments.n
    try:
        with _progress(rollouts.env_name, count) as progress:
            result = rollouts.run(policy, range(seed, seed + count), video, progress=progress)
    except RolloutError as error:
        raise RolloutError(f"{path}: {error}") from error
    finally:
        rollouts.close()
    _say(f"{path}")
    _say(f"{result.env_name}: success {result}, starts {seed} to {seed + count - 1}")
    if result.video:
        _say(f"video: {result.video}")
    if out:
        content = {"metrics": result.metrics(), "episodes": [asdict(e) for e in result.episodes]}
        try:
            out.write_text(json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise _unwritable("out", out, error.strerror or str(error)) from error
        _say(f"episodes: {out}")


def _check_numbers(arguments: Arguments) -> None:
    for name in ("n", "num_envs", "horizon", "num_threads"):
        value: int | None = getattr(arguments, name)
        if value is not None and value < 1:
            null = " (or null for the run's own)" if name != "num_envs" else ""
            raise ConfigError(f"{name}={value}: at least 1 is needed{null}")
    if arguments.seed is not None and arguments.seed < 0:
        raise ConfigError(f"seed={arguments.seed}: a start is at least 0 (or null for the run's)")


def _prepare_torch(policy: Policy, arguments: Arguments) -> None:
    """What decides how torch rounds, as in the run."""
    from rmexp.determinism import prepare_torch

    threads = arguments.num_threads or policy.config.num_threads
    prepare_torch(num_threads=threads, deterministic=policy.config.deterministic)


def _output(arguments: Arguments, name: str) -> Path | None:
    """The file to write, with a directory for it: a typing error shall not cost the episodes."""
    word: str | None = getattr(arguments, name)
    if word is None:
        return None
    path = Path(word).expanduser()
    if name == "video" and path.suffix not in SUFFIXES:
        raise ConfigError(
            f"video={word}: only {' and '.join(SUFFIXES)} can be written; "
            f"say video={path.with_suffix(SUFFIXES[0])}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise _unwritable(name, path, "it is a directory")
        _try_to_write(path)
    except OSError as error:
        raise _unwritable(name, path, error.strerror or str(error)) from error
    return path


def _try_to_write(path: Path) -> None:
    """Nothing but the attempt tells: /proc has a directory's permissions and takes no file."""
    if path.exists():
        with path.open("ab"):
            return
    with path.open("xb"):
        path.unlink()


def _unwritable(name: str, path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{name}={path}: cannot be written ({reason}); choose another file")


@contextmanager
def _progress(env_name: str, count: int) -> Generator[Callable[[int, int], None]]:
    """A live line on a terminal's stderr, gone when the block ends; nothing without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (f"{env_name}: evaluating", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("episodes", total=count)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
    sys.exit(run_command(Arguments, evaluate, prog="python -m rmexp.evaluate"))
