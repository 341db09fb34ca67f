"""robomimic's configuration as a command line: `python -m rmexp.tools.import_config config.json`.

Only what differs from rmexp's own values is said; what only places a run on a machine is left out.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rmexp.arguments import argument, run_command
from rmexp.errors import ConfigError
from rmexp.tools.import_robomimic import first_word_is

PROG = "python -m rmexp.tools.import_config"


@dataclass
class ConfigArguments:
    """Print the command line that is equivalent to a configuration of robomimic (0.3 to 0.5).

    The first word may be the file alone: config.json stands for config=config.json.
    """

    config: str = argument("the configuration (.json)")
    data: str | None = argument("data file to name instead of the one in it", default=None)


def import_config(arguments: ConfigArguments) -> None:
    """Read, translate, print."""
    from rmexp.compat.experiment import command, data_paths, whole_run

    path = Path(arguments.config).expanduser()
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"config={path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"config={path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"config={path}: not a configuration of robomimic")
    words = command(whole_run(config), *data_paths(config["train"], arguments.data))
    quoted = [shlex.quote(word) for word in words]
    sys.stdout.write(" \\\n  ".join(["python -m rmexp", *quoted]) + "\n")


if __name__ == "__main__":
    argv = first_word_is("config", sys.argv[1:])
    sys.exit(run_command(ConfigArguments, import_config, prog=PROG, argv=argv))
