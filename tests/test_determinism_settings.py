from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from rmexp.determinism import prepare_torch, torch_settings
from rmexp.errors import ConfigError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "x")  # so that it is put back whoever sets it
    monkeypatch.delenv(WORKSPACE)
    yield
    prepare_torch(num_threads=1, deterministic=False)


def test_every_switch_is_set_and_unset() -> None:
    prepare_torch(num_threads=1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == ":4096:8"
    settings = torch_settings()
    assert settings["deterministic"]
    assert settings["cudnn_deterministic"]
    assert not settings["cudnn_benchmark"]
    assert settings["cublas_workspace"] == ":4096:8"
    assert settings["num_threads"] == 1
    prepare_torch(num_threads=None, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_what_would_break_the_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="num_threads: 0 is too small"):
        prepare_torch(num_threads=0, deterministic=False)
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 .* unset it"):
        prepare_torch(num_threads=1, deterministic=True)
    monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="CUDA has started in this process"):
        prepare_torch(num_threads=1, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv(WORKSPACE, ":16:8")
    prepare_torch(num_threads=1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
