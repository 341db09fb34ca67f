"""What cannot be: said in our words, the first line first, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import rmexp
from rmexp import refused
from rmexp.config import config_dir
from rmexp.errors import CheckpointError, ConfigError
from rmexp.run_dir import RunDirectory
from tests.command_line import TINY, Outcome, run_here, status

Run = Callable[..., Outcome]

FIRST_LINES = {
    "algo.lrr=1": "algo.lrr=1: algo has no key 'lrr'; did you mean 'algo.lr'?",
    "algo.head.l2_wieght=1": (
        "algo.head.l2_wieght=1: algo.head has no key 'l2_wieght'; "
        "did you mean 'algo.head.l2_weight' or 'algo.head.l1_weight'?"
    ),
    "algos=bc": "algos=bc: the configuration has no key 'algos'; did you mean 'algo'?",
    "loging=none": "loging=none: the configuration has no key 'loging'; did you mean 'logging'?",
    "dataset.pathh=x": "dataset.pathh=x: dataset has no key 'pathh'; did you mean 'dataset.path'?",
    "algo=bcc": "algo=bcc: there is no such choice; did you mean 'bc', 'bcq' or 'hbc'?",
    "algo=BC_GMM": "algo=BC_GMM: there is no such choice; did you mean 'bc_gmm'?",
    "logging=[none,wandbb]": "logging=wandbb: there is no such choice; did you mean 'wandb'?",
    "dataset.obs_keys=object": (
        "the configuration has 1 problem:\n  dataset.obs_keys: 'object' (str) is not a list of a "
        "string or null; a list is written [object]"
    ),
    "dataset.placement=gpu": (
        "the configuration has 1 problem:\n"
        "  dataset.placement: 'gpu' (str) is not one of 'auto', 'device', 'ram', 'mmap'\n"
    ),
    "resume=": "resume=: no directory is given; say resume=outputs/bc_lift/RUN",
    "algo=": "algo=: there is no such choice",
    "debug=smok": "debug=smok: there is no such choice; did you mean 'smoke'?",
    "algo/head=gauss": "algo/head=gauss: there is no such choice; did you mean 'gaussian'?",
    "algo/heads=gmm": "algo/heads=gmm: there is no group 'algo/heads'; did you mean 'algo/head'?",
    "dataset=/data/x.hdf5": (
        "dataset=/data/x.hdf5: a file is given with dataset=hdf5 dataset.path=/data/x.hdf5"
    ),
    "+foo=1": "foo: the configuration has no such key; it has algo, dataset, debug, ",
    "~algo.lrr": "~algo.lrr: algo has no key 'lrr'; did you mean 'algo.lr'?",
    "+seed=1": "+seed: there is such a key already; leave the + away",
    "algo=td3_bc algo.lr=1": (
        "algo.lr=1: algo has no key 'lr'; did you mean 'algo.actor_lr' or 'algo.critic_lr'?"
    ),
    "lr=1e-3": "lr=1e-3: the configuration has no key 'lr'; did you mean 'algo.lr'?",
    "algo.num_epochs=3": (
        "algo.num_epochs=3: algo has no key 'num_epochs'; did you mean 'loop.num_epochs'?"
    ),
    "algo.lr.x=1": "algo.lr.x=1: no key can stand below algo.lr: it has the value 0.0001",
    "algo=act algo/head=gmm": (
        "algo/head=gmm: there is nothing to choose at 'algo/head' with algo=act"
    ),
    "algo=hbc algo@algo.actr=bc": (
        "algo@algo.actr=bc: there is nothing to choose at 'algo@algo.actr' with algo=hbc; "
        "did you mean 'algo@algo.actor'?"
    ),
    "seed=abc": "seed=abc: an integer is needed",
    "tags=a": "tags=a: a list is needed: tags=[a]",
    "debug.traceback=perhaps": "debug.traceback=perhaps: true or false is needed",
    "device=${oc.env:NONE}": "device=${oc.env:NONE}: Environment variable 'NONE' not found",
    "algo.lr=[1": "algo.lr=[1: cannot be read as key=value (no viable alternative at input '[1')",
    "bc": "bc: every word is key=value, for example algo=bc or algo.lr=1e-3; --help lists",
    "seed=1,2": "seed=1,2: several values make a sweep, which -m starts; one value that is a list",
    "algo.lr=range(3)": "algo.lr=range(3): several values make a sweep, which -m starts",
    "algo.lr_schedule=cosine": (
        "the configuration has 1 problem:\n"
        "  algo.lr_schedule: 'cosine' (str) is not a node with a _target_ that makes Schedule; "
        "choose one with algo/lr_schedule=cosine"
    ),
}
INNER = ("bench_process", "bench_reference")  # what the benchmark itself starts
HYDRAS = ("struct", "RmexpConfig", "append to your", "Config search path", "hydra.cc", "full_key")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, base: Sequence[str] = TINY) -> Outcome:
        return run_here([*base, *arguments], monkeypatch, capfd)

    return command


@pytest.mark.parametrize("typed", sorted(FIRST_LINES))
def test_the_first_line_says_what_is_wrong(run: Run, tmp_path: Path, typed: str) -> None:
    outcome = run("rollout=none", "logging=none", *typed.split(" "), base=[])
    assert outcome.code == 1, outcome.text
    assert outcome.err.startswith(f"error: {FIRST_LINES[typed]}"), outcome.err
    assert [word for word in HYDRAS if word in outcome.text] == []
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_choice_lists_all_of_them(run: Run) -> None:
    assert "\n  debug is one of: overfit, smoke\n" in run("debug=smok").err
    assert "algo is one of: act, bc, bc_gaussian," in run("algo=bcc").err


def test_a_choice_that_a_file_asks_for_names_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /algo: bcc\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    found = run("experiment=mine", base=["--config-dir=conf"]).err
    assert "algo=bcc: there is no such choice; did you mean 'bc', 'bcq' or 'hbc'?" in found


def test_help_names_every_command() -> None:
    text = (config_dir() / "hydra" / "help" / "rmexp.yaml").read_text()
    package = Path(rmexp.__file__).parent
    commands = [
        file.relative_to(package.parent).with_suffix("").as_posix().replace("/", ".")
        for file in sorted(package.rglob("*.py"))
        if 'if __name__ == "__main__"' in file.read_text() and file.stem not in INNER
    ]
    assert len(commands) > 6
    assert [
        name for name in commands if f"python -m {name.removesuffix('.__main__')}" not in text
    ] == []


REFUSED = {
    "a value": ["algo.lr=abc"],
    "a number": ["loop.num_epochs=-1"],
    "a file": ["dataset.path=nowhere.hdf5"],
    "a filter key": ["dataset.train_filter=trian"],
    "a device": ["device=tpu9"],
    "a reference": ["algo.lr=${nothing}"],
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_leaves_nothing(run: Run, tmp_path: Path, name: str) -> None:
    assert run(*REFUSED[name]).code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_leaves_a_folder_as_it_was(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "notes.txt").write_text("mine")
    (tmp_path / "mine" / "a" / "rmexp.log").write_text("an earlier one\n")
    assert run(*REFUSED[name], "hydra.run.dir=mine/a").code == 1
    assert run(*REFUSED[name], "hydra.run.dir=mine/b/c").code == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a",
        "mine",
        "notes.txt",
        "rmexp.log",
    ]
    assert (tmp_path / "mine" / "a" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "mine" / "a" / "rmexp.log").read_text().startswith("an earlier one\n")


def test_what_has_begun_stays(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("hydra.run.dir=a").code == 0
    before = sorted(path.name for path in (tmp_path / "a").rglob("*"))
    assert run("hydra.run.dir=a", "loop.num_epochs=3").code == 1
    assert run("resume=a", "algo.lr=3", base=[]).code == 1
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == before

    def refuse(self: RunDirectory) -> bool:
        raise RuntimeError("a fault, not a refusal")

    monkeypatch.setattr(RunDirectory, "holds_a_run", refuse)
    assert run("hydra.run.dir=b").code == 1
    assert "a fault, not a refusal" in (tmp_path / "b" / "rmexp.log").read_text()


def test_what_another_process_has_begun_stays(tmp_path: Path) -> None:
    refused.remember(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").write_text("pid 1 since 2026-01-01\n")
    assert not refused.take_back(ConfigError("no"))
    assert (tmp_path / "a" / ".lock").exists()
    (tmp_path / "a" / ".lock").write_text(f"pid {os.getpid()} since 2026-01-01\n")
    assert not refused.take_back(CheckpointError("a full disk"))
    assert refused.take_back(ConfigError("no"))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_keeps_the_record_of_its_failed_jobs(run: Run, tmp_path: Path) -> None:
    outcome = run("-m", "loop.num_epochs=1,-1", "hydra.sweep.dir=sweep")
    assert outcome.code == 1
    job = tmp_path / "sweep" / "loop.num_epochs=-1"
    assert status(job)["state"] == "failed"
    assert "at least 1" in (job / "rmexp.log").read_text()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_sweep_that_cannot_begin(run: Run, tmp_path: Path, earlier: bool) -> None:
    if earlier:
        assert run("-m", "seed=1", "loop.num_epochs=1", "hydra.sweep.dir=sweep").code == 0
    before = sorted(tmp_path.rglob("*"))
    outcome = run("-m", "algo=bc,bcc", "hydra.sweep.dir=sweep")
    assert outcome.code == 1
    assert (
        "error: algo=bcc: there is no such choice; did you mean 'bc', 'bcq' or 'hbc'?"
        in outcome.err
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_the_jobs_of_a_sweep_share_a_folder_and_are_reported_in_their_order(
    run: Run, tmp_path: Path
) -> None:
    outcome = run("-m", "algo=bc_gmm,bc", "seed=11,2", "loop.num_epochs=1")
    assert outcome.code == 0, outcome.text
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    names = [f"algo={algo},seed={seed}" for algo in ("bc_gmm", "bc") for seed in (11, 2)]
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == sorted(names)
    report = outcome.err[outcome.err.index("\nsweep ") :].splitlines()[2:]
    assert [line.split()[1] for line in report] == names
