"""Settings of a data set that no file could satisfy, refused before one is opened."""

from __future__ import annotations

from rmexp.errors import ConfigError


def check_settings(
    paths: list[str],
    weights: list[float] | None,
    sha256: str | None,
    valid_fraction: float,
    frame_stack: int,
    seq_length: int,
) -> None:
    if not paths:
        raise ConfigError("dataset.path is an empty list; name a file")
    if weights is not None and (len(weights) != len(paths) or min(weights) <= 0):
        raise ConfigError(
            f"dataset.weights is {weights}; one positive number for each of {len(paths)} files"
        )
    if sha256 is not None and len(paths) > 1:
        raise ConfigError("dataset.sha256 is for one file; give null with several")
    if not 0 <= valid_fraction < 1:
        raise ConfigError(f"dataset.valid_fraction is {valid_fraction}; it lies in [0, 1)")
    for name, value in (("frame_stack", frame_stack), ("seq_length", seq_length)):
        if value < 1:
            raise ConfigError(f"dataset.{name} is {value}; at least 1 is needed")
