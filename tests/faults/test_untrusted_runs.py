"""Run directories made to do harm when they are resumed: nothing runs, nothing leaves them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.command_line import TINY, Outcome, run_here, run_process
from tests.faults.hostile import CANARY, Canary, canary

__all__ = ["canary"]
pytestmark = pytest.mark.faults

RUN = f"{CANARY}.run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    outcome = run_process([*TINY, "hydra.run.dir=run"], folder)
    assert outcome.code == 0, outcome.text
    return folder / "run"


def in_yaml(*keys: str, **values: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        config: Any = yaml.safe_load((run / "config.yaml").read_text())
        node = config
        for key in keys:
            node = node[key]
        node.update(values)
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return change


def as_text(text: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with (run / "config.yaml").open("a") as file:
            file.write(text)

    return change


def linked(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(run.parent / "precious")

    return change


class Calls:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def code_in_checkpoint(run: Path) -> None:
    torch.save({"format": 1, "x": Calls()}, run / "checkpoints" / "last.pt")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "algorithm": (in_yaml("algo", _target_=RUN), "algo._target_ is 'rmexp_canary.run'"),
    "part": (in_yaml("algo", head={"_target_": RUN}), "algo.head._target_"),
    "list item": (in_yaml("algo", actor_layer_dims=[{"_target_": RUN}]), "dims[0]._target_"),
    "logger": (in_yaml("logging", x={"_target_": RUN}), "logging.x._target_"),
    "loop": (in_yaml("loop", _target_="os.system"), "loop._target_ is 'os.system'"),
    "another group's": (in_yaml("loop", _target_="rmexp.algo.bc.BC"), "does not ship there"),
    "trusting itself": (in_yaml(trust=[RUN], x={"_target_": RUN}), "x._target_"),
    "hydra's node": (in_yaml(hydra={"callbacks": {"a": {"_target_": RUN}}}), "hydra.callbacks"),
    "interpolation": (in_yaml("algo", lr="${oc.env:HOME}"), "algo.lr holds an interpolation"),
    "resolver": (in_yaml("paths", cache_dir="${rmexp.asset:x}"), "holds an interpolation"),
    "tag that calls": (as_text('x: !!python/object/apply:os.mkdir ["owned"]\n'), "cannot be read"),
    "tag that imports": (as_text(f"x: !!python/module:{CANARY}\n"), "cannot be read"),
    "laughs": (as_text(LAUGHS), "larger or deeper"),
    "no mapping": (lambda run: _write(run, "[1, 2]"), "is no mapping"),
    "depth": (lambda run: _write(run, "[" * 5000), "config.yaml"),
    "linked lock": (linked(".lock"), ".lock: is a link to"),
    "linked record": (linked("metrics.jsonl"), "metrics.jsonl: is a link to"),
    "linked log": (linked("rmexp.log"), "rmexp.log: is a link to"),
    "code in the checkpoint": (code_in_checkpoint, "last.pt: refused"),
}


def _write(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)


def resumed(
    folder: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Outcome:
    monkeypatch.chdir(folder)
    return run_here(["resume=run", "loop.num_epochs=3", *arguments], monkeypatch, capfd)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_run_directory_is_refused(
    name: str,
    trained: Path,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, canary.folder / "run")
    (canary.folder / "precious").write_text("precious")
    change, said = ATTACKS[name]
    change(canary.folder / "run")
    outcome = resumed(canary.folder, [], monkeypatch, capfd)
    assert outcome.code == 1
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not canary.sang
    assert (canary.folder / "precious").read_text() == "precious"
    there = {path.name for path in canary.folder.iterdir()}
    assert there == {"run", "precious", f"{CANARY}.py"}


def test_trust_resumes_a_run_with_a_class_of_ones_own(
    trained: Path,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, canary.folder / "run")
    in_yaml("algo", "head", _target_=f"{CANARY}.head")(canary.folder / "run")
    refused = resumed(canary.folder, [], monkeypatch, capfd)
    assert refused.code == 1
    assert f"trust=[{CANARY}.head]" in refused.err
    assert not canary.sang
    done = resumed(canary.folder, [f"trust=[{CANARY}.head]"], monkeypatch, capfd)
    assert done.code == 0, done.text
    assert canary.sang
