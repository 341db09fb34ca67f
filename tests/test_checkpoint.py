from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp import checkpoint
from rmexp.atomic import write_atomically
from rmexp.errors import CheckpointError
from rmexp.trust import shipped_targets, trusted_config

CONTENT: dict[str, Any] = {
    "weights": torch.arange(7.0),
    "config": {"a": [1, 2.5, "x", None, True]},
    "random": torch.get_rng_state(),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    content = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(content["weights"], CONTENT["weights"])
    assert content["config"] == CONTENT["config"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"format": 1, "x": Attack()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"format": 1, "x": Attack()}))
    for name, words in (("a.pt", "refused"), ("b.pt", "not a checkpoint")):
        with pytest.raises(CheckpointError, match=rf"{name}: .*{words}"):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file_is_an_error(tmp_path: Path, tenth: int) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENT)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * tenth // 10])
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        checkpoint.load(path)


def test_a_missing_file_lists_what_is_there(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "best.pt", CONTENT)
    with pytest.raises(CheckpointError, match=r"no such checkpoint; .* holds best\.pt"):
        checkpoint.load(tmp_path / "bets.pt")


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "new.pt")
    torch.save({"model": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="not an rmexp checkpoint"):
        checkpoint.load(tmp_path / "foreign.pt")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), hard))
    try:
        with pytest.raises(CheckpointError, match=r"last\.pt: cannot be written: File too large"):
            checkpoint.save(path, {"epoch": 2, "big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_second_name_follows_no_later_save(tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    checkpoint.save(last, {"epoch": 1})
    checkpoint.link(last, best)
    checkpoint.save(last, {"epoch": 2})
    assert checkpoint.load(best)["epoch"] == 1
    checkpoint.link(last, best)
    checkpoint.link(last, best)
    assert checkpoint.load(best)["epoch"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "best.pt"}


@pytest.mark.parametrize(("keep", "left"), [(2, ["epoch_000003.pt", "epoch_000004.pt"]), (9, 4)])
def test_retention_counts(tmp_path: Path, keep: int, left: Any) -> None:
    for epoch in (1, 2, 3, 4):
        write_atomically(tmp_path / f"epoch_{epoch:06d}.pt", b"x")
    write_atomically(tmp_path / "best.pt", b"x")
    checkpoint.prune(tmp_path, keep)
    names = sorted(p.name for p in tmp_path.glob("epoch_*"))
    assert names == left or len(names) == left
    assert (tmp_path / "best.pt").exists()


ATTACKS: list[Any] = [
    {"_target_": "os.system", "command": "touch owned"},
    {"a": {"_target_": "subprocess.run"}},
    {"a": [1, {"b": {"_target_": "pathlib.Path.write_text"}}]},
    {"_target_": "rmexp.algo.bc.torch.hub.load"},
    {"_target_": "rmexp.checkpoint.os.system"},
    {"_target_": "torch.load"},
    {"_target_": ["rmexp.algo.bc.BC"]},
    {"_target_": None},
    {"_target_": {"x": 1}},
    {"_target_": "rmexp.algo.bc.BC "},
    {"_target_": "rmexp.algo.bc"},
    {"_target_": "${oc.env:HOME}"},
    {"a": "${oc.env:HOME}"},
    {"a": ["${a}"]},
    {"${x}": 1},
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_config_from_a_file_cannot_choose_code(attack: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^FILE: "):
        trusted_config({"algo": attack}, [], "FILE")


def test_shipped_and_trusted_targets_pass() -> None:
    assert "rmexp.algo.bc.BC" in shipped_targets("algo")
    plain = {"algo": {"_target_": "rmexp.algo.bc.BC"}, "x": {"_target_": "my.lab.Thing"}}
    with pytest.raises(CheckpointError, match=r"x\._target_ .* trust=\[my\.lab\.Thing\]"):
        trusted_config(plain, [], "FILE")
    assert trusted_config(plain, ["my.lab.Thing"], "FILE").x._target_ == "my.lab.Thing"
