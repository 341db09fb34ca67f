"""A policy of robomimic as one of ours: `python -m rmexp.tools.import_robomimic m.pth out=m.pt`.

Nothing in the file is executed. `Policy.load` and `python -m rmexp.evaluate` open the result.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmexp.arguments import HELP_FLAGS, argument, run_command
from rmexp.errors import CheckpointError

PROG = "python -m rmexp.tools.import_robomimic"


@dataclass
class ImportArguments:
    """Turn a checkpoint of robomimic (0.3 to 0.5) into one of rmexp.

    The first word may be the checkpoint alone: model.pth stands for model=model.pth.
    """

    model: str = argument("the checkpoint that robomimic wrote (.pth)")
    out: str = argument("file to write; it must not exist")


def import_checkpoint(arguments: ImportArguments) -> None:
    """Read, translate, write, and open what was written."""
    from rmexp import checkpoint
    from rmexp.compat.checkpoint import imported, read
    from rmexp.policy import Policy
    from rmexp.rollout.environments import undescribed

    source, out = Path(arguments.model).expanduser(), Path(arguments.out).expanduser()
    if out.exists():
        raise CheckpointError(f"out={out}: it exists; choose another name or delete it first")
    content = imported(read(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out, content)
    policy = Policy.load(out, device="cpu")
    name = policy.config.algo._target_.rpartition(".")[2]
    keys = ", ".join(policy.algo.spec.obs_shapes)
    env = (policy.env_args or {}).get("env_name", "no environment")
    count = f"{policy.algo.num_parameters():,} parameters"
    sys.stdout.write(f"{out}: {name}, {count}, for {env}; it sees {keys}\n")
    if reason := undescribed(policy.env_args):
        sys.stderr.write(f"warning: {out}: {reason}\n")


def first_word_is(name: str, argv: Sequence[str]) -> list[str]:
    """`argv` with `name=` before a first word that is a file alone."""
    words = list(argv)
    if words and "=" not in words[0] and words[0] not in HELP_FLAGS:
        words[0] = f"{name}={words[0]}"
    return words


if __name__ == "__main__":
    argv = first_word_is("model", sys.argv[1:])
    sys.exit(run_command(ImportArguments, import_checkpoint, prog=PROG, argv=argv))
