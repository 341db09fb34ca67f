"""The wheel is complete: built, unpacked elsewhere and run from an unrelated directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.command_line import GOLDEN, TESTS

CONF = TESTS.parent / "conf"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(TESTS.parent)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_every_configuration_and_asset_is_inside(installed: Path) -> None:
    shipped = {p.relative_to(CONF) for p in CONF.rglob("*.yaml") if "local" not in p.parts}
    assert {
        p.relative_to(installed / "rmexp" / "conf") for p in installed.rglob("*.yaml")
    } == shipped
    assert (installed / "rmexp" / "assets" / "lift.hdf5").is_file()
    assert (installed / "rmexp" / "py.typed").is_file()
    assert not list(installed.glob("tests*"))


@pytest.mark.slow
def test_the_sim_extra_keeps_to_the_numpy_that_the_simulator_needs(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "Requires-Dist: numpy<2; extra == 'sim'" in metadata.read_text().splitlines()


@pytest.mark.slow
def test_it_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rmexp",
        "debug=smoke",
        "rollout=none",
        "logging=none",
        "algo.actor_layer_dims=[16]",
        "hydra.run.dir=run",
    ]
    environment = {**os.environ, "PYTHONPATH": str(installed), "RMEXP_TEST_DATA": str(GOLDEN)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in (tmp_path / "run" / "config.yaml").read_text()
    assert (tmp_path / "run" / "checkpoints" / "best.pt").is_file()
