"""What a user can cause and mend: each message stands alone and is shown without a traceback."""

from __future__ import annotations


class RmexpError(Exception):
    """Base of every error that rmexp raises on purpose; its text names file, key and remedy."""


class ConfigError(RmexpError):
    """The configuration cannot be built: names every faulty key at once."""


class RunExistsError(ConfigError):
    """There is a run in this directory already; it is left as it is."""


class DatasetError(RmexpError):
    """A demonstration file cannot be used: names the file, the episode and the key."""


class CheckpointError(RmexpError):
    """A checkpoint or a run directory cannot be read, written or continued."""


class DamagedError(CheckpointError):
    """The bytes of a file are not those that were written."""


class RunInUseError(CheckpointError):
    """Another process is running in this directory: it may be left to that process."""


class RolloutError(RmexpError):
    """A simulator failed: names the environment, the episode's seed and the step."""


class NonFiniteError(RmexpError):
    """A loss or another metric became NaN or infinite: names epoch, step and keys."""


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError, `lr: -1 must be at least 0`, unless the value is as allowed."""
    if not holds:
        raise ConfigError(f"{name}: {value!r} must be {allowed}")
