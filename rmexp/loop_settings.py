"""How long a run is and how often it does what; in epochs unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rmexp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The numbers stand in `conf/loop`."""

    num_epochs: int
    steps_per_epoch: int | None
    batch_size: int
    validate_every: int
    valid_steps: int | None
    rollout_every: int
    save_last_every: int
    save_every: int
    keep: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("rollout_every", "save_every", "validate_every") else 1
            if value is not None and value < least:
                raise ConfigError(f"loop.{field.name}: {value} is too small; at least {least}")


def due(every: int, epoch: int) -> bool:
    """Whether something done every `every` epochs (0: never) is done in this one."""
    return every > 0 and epoch % every == 0
