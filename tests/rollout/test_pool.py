from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from point_mass import Facts, PointMass

from rmexp.errors import RolloutError
from rmexp.rollout.pool import EnvPool, RenderingError
from rmexp.rollout.worker import View

VIEW = View(height=33, width=47, camera=None, every=2)
PUSH = np.array([0.3, -0.2])

MakePool = Callable[..., EnvPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[EnvPool] = []

    def make(num_envs: int = 2, answer_s: float = 60.0, **trouble: object) -> EnvPool:
        pools.append(EnvPool(partial(PointMass, **trouble), num_envs, answer_s=answer_s))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def pids(pool: EnvPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers.values()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_workers_simulate_what_this_process_would(make_pool: MakePool) -> None:
    pool, here = make_pool(), PointMass()
    first = pool.reset({0: 7, 1: 8}, VIEW)
    assert list(first) == [0, 1]
    for key, value in here.reset(7).items():
        np.testing.assert_array_equal(first[0].obs[key], value)
    assert first[0].frame is not None
    np.testing.assert_array_equal(first[0].frame, here.render(height=33, width=47, camera=None))
    for step in range(1, 4):
        reply = pool.step({1: -PUSH, 0: PUSH})[0]
        obs, reward, terminated, info = here.step(PUSH)
        for key, value in obs.items():
            np.testing.assert_array_equal(reply.obs[key], value)
        assert (reply.reward, reply.terminated) == (reward, terminated)
        assert reply.success == info["success"]
        assert (reply.frame is not None) == (step % 2 == 0)
    assert pool.name == "PointMass"


def test_workers_start_when_needed_and_stay(make_pool: MakePool) -> None:
    pool = make_pool(3)
    assert pids(pool) == []
    pool.reset({1: 1})
    (first,) = pids(pool)
    pool.reset({0: 1, 1: 2})
    assert len(pids(pool)) == 2
    assert first in pids(pool)
    pool.close()
    assert not alive(first)
    pool.reset({1: 3})
    assert first not in pids(pool)


def test_environments_step_at_the_same_time(make_pool: MakePool) -> None:
    pool = make_pool(3, step_sleep_s=0.5)
    pool.reset({0: 0, 1: 1, 2: 2})
    began = time.perf_counter()
    replies = pool.step(dict.fromkeys(range(3), PUSH))
    assert time.perf_counter() - began < 1.0
    assert all(reply.simulate_s >= 0.5 for reply in replies.values())


def test_a_worker_is_a_process_with_one_thread_and_nothing_heavy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    pool = EnvPool(Facts, 2)
    replies = pool.reset({0: 0, 1: 1})
    assert dict(os.environ) == before
    facts = np.stack([replies[env].obs["facts"] for env in (0, 1)])
    assert facts[:, 0].tolist() == pids(pool)
    assert facts[:, 1:].tolist() == [[1, 0, 0]] * 2  # OMP_NUM_THREADS, torch, hydra
    pool.close()


def test_large_observations_pass(make_pool: MakePool) -> None:
    pool = make_pool(2, obs_bytes=3_000_000)
    pool.reset({0: 0, 1: 1})
    replies = pool.step({0: PUSH, 1: PUSH})
    assert all((reply.obs["image"] == 1).all() for reply in replies.values())


@pytest.mark.parametrize(
    ("trouble", "step", "message"),
    [
        ("raise", 0, "ValueError: the mass went through the wall"),
        ("raise", 2, "ValueError: the mass went through the wall"),
        ("exit", 1, "SystemExit: licence expired"),
        ("kill", 0, r"the simulator's process was killed by SIGKILL \(out of memory\?\)"),
        ("crash", 2, r"process was killed by SIGSEGV; it last said: a last word on stdout$"),
        ("abort", 2, r"ended with code 3; it last said: solver: singular matrix"),
    ],
)
def test_failures_name_environment_seed_and_step(
    make_pool: MakePool, trouble: str, step: int, message: str
) -> None:
    pool = make_pool(2, trouble=trouble, at_seed=41, at_step=step)

    def episode(seed: int) -> None:
        pool.reset({0: 3, 1: seed})
        started.extend(pids(pool))
        for _ in range(2):
            pool.step({0: PUSH, 1: PUSH})

    started: list[int] = []
    with pytest.raises(RolloutError, match=rf"^PointMass, seed 41, step {step}: .*{message}"):
        episode(41)
    assert not any(alive(pid) for pid in started)
    assert pids(pool) == []
    episode(42)  # starts anew


def test_the_worker_s_traceback_is_the_cause(make_pool: MakePool) -> None:
    pool = make_pool(1, trouble="raise", at_seed=5)
    with pytest.raises(RolloutError) as caught:
        pool.reset({0: 5})
    assert "_get_into_trouble" in str(caught.value.__cause__)


def test_a_crash_leaves_what_was_printed_in_the_cause(make_pool: MakePool) -> None:
    pool = make_pool(1, trouble="crash", at_seed=5)
    with pytest.raises(RolloutError) as caught:
        pool.reset({0: 5})
    assert "a last word on stdout" in str(caught.value.__cause__)
    assert "Fatal Python error: Segmentation fault" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [("raise", "ValueError: the mass"), ("exit", "SystemExit"), ("kill", "killed by SIGKILL")],
)
def test_an_environment_that_cannot_be_made(
    make_pool: MakePool, trouble: str, message: str
) -> None:
    pool = make_pool(2, trouble=trouble)
    with pytest.raises(RolloutError, match=rf"the environment could not be made: .*{message}"):
        pool.reset({0: 1, 1: 2}, VIEW)
    assert pids(pool) == []


def test_a_stuck_simulator_is_reported(make_pool: MakePool) -> None:
    pool = make_pool(2, answer_s=1.5, trouble="hang", at_seed=9, at_step=1)
    pool.reset({0: 8, 1: 9})
    started = pids(pool)
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"seed 9, step 1: no answer for 1\.5 s"):
        pool.step({0: PUSH, 1: PUSH})
    assert time.monotonic() - began < 14
    assert not any(alive(pid) for pid in started)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("at_seed", [9, None])
def test_a_stop_ends_the_waiting_for_a_stuck_simulator(
    make_pool: MakePool, at_seed: int | None
) -> None:
    """Stuck in a reset, or while it starts; the other one has long answered."""
    pool = make_pool(2, trouble="hang", at_seed=at_seed)
    pool.submit_reset(0, 8)
    pool.submit_reset(1, 9)
    started, began, calls = pids(pool), time.monotonic(), []

    def should_stop() -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        pool.collect([0, 1], should_stop)
    assert calls[-1] - began < 8  # much of it is the start of an interpreter on a busy machine
    assert time.monotonic() - calls[-1] < 2
    assert not any(alive(pid) for pid in started)
    assert pids(pool) == []


def test_a_simulator_that_never_closes_is_killed(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmexp.rollout.pool.CLOSE_S", 0.3)
    pool = make_pool(2, trouble="never closes")
    pool.reset({0: 0, 1: 1})
    started = pids(pool)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 3
    assert not any(alive(pid) for pid in started)


def test_a_worker_that_died_while_idle_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.reset({0: 0, 1: 1})
    lost, kept = pids(pool)
    os.kill(lost, signal.SIGKILL)
    wait_until_gone(lost)
    pool.reset({0: 2, 1: 3})
    assert pids(pool)[1] == kept
    assert pids(pool)[0] != lost


def test_rendering_failures_are_told_apart(make_pool: MakePool) -> None:
    pool = make_pool(1, trouble="blind")
    pool.reset({0: 4})
    with pytest.raises(RenderingError, match="seed 4, step 0: rendering failed: OSError: no disp"):
        pool.reset({0: 4}, VIEW)
    pool = make_pool(1, trouble="blind crash")
    with pytest.raises(RenderingError, match=r"seed 6, step 0: .* was killed by SIGSEGV"):
        pool.reset({0: 6}, VIEW)


def test_workers_ignore_ctrl_c_and_obey_sigterm(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.reset({0: 0})
    (pid,) = pids(pool)
    os.kill(pid, signal.SIGINT)
    pool.step({0: PUSH})
    os.kill(pid, signal.SIGTERM)
    assert wait_until_gone(pid)
    with pytest.raises(RolloutError, match=r"seed 0, step 2: .* was killed by SIGTERM"):
        pool.step({0: PUSH})


def test_what_cannot_be_sent_is_refused_at_once() -> None:
    with pytest.raises(RolloutError, match=r"make_env cannot be pickled .*functools\.partial"):
        EnvPool(lambda: PointMass(), 1)
    with pytest.raises(ValueError, match="num_envs=0"):
        EnvPool(PointMass, 0)


def test_an_environment_beyond_the_pool_is_refused(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="the pool has 0 to 1"):
        make_pool(2).reset({2: 0})


SCRIPT = """
import os, signal, sys
from rmexp.rollout.pool import EnvPool
from point_mass import PointMass

class Own(PointMass):
    pass

print("main runs", flush=True)
pool = EnvPool(PointMass, 2)
pool.reset({0: 0, 1: 1})
print("pids", *[w.process.pid for w in pool._workers.values()], flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "sibling":  # a forked child that outlives the parent and holds its pipes
    child = os.fork()
    if child == 0:
        signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "forked":  # a forked copy that ends must not end the parent's workers
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    pool.step({0: [0, 0], 1: [0, 0]})
    print("still there", flush=True)
if sys.argv[1] == "own":
    EnvPool(Own, 1)
if sys.argv[1] == "error":
    raise KeyError("in the training")
"""


def run_script(tmp_path: Path, how: str) -> tuple[subprocess.CompletedProcess[str], list[int]]:
    """Run SCRIPT, which has no `if __name__ == "__main__"`; returns also its workers."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"pids (\d+) (\d+)", done.stdout)
    assert found, done.stderr
    return done, [int(pid) for pid in found.groups()]


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1), ("killed", -9)])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: str, code: int) -> None:
    done, workers = run_script(tmp_path, how)
    assert done.returncode == code, done.stderr
    assert done.stdout.count("main runs") == 1
    assert all(wait_until_gone(pid) for pid in workers)


@pytest.mark.slow
def test_no_worker_outlives_its_parent_while_a_sibling_holds_the_pipe(tmp_path: Path) -> None:
    script, output = tmp_path / "train.py", tmp_path / "output"
    script.write_text(SCRIPT)
    with output.open("w") as file:
        parent = subprocess.Popen(
            [sys.executable, str(script), "sibling"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=file,
        )
    assert parent.wait(60) == -signal.SIGKILL
    first, second, sibling = (int(word) for word in re.findall(r"\d+", output.read_text()))
    try:
        assert alive(first)
        assert wait_until_gone(first)
        assert wait_until_gone(second)
        assert alive(sibling)
    finally:
        os.kill(sibling, signal.SIGKILL)


def test_a_forked_copy_leaves_the_workers_alone(tmp_path: Path) -> None:
    done, workers = run_script(tmp_path, "forked")
    assert done.returncode == 0, done.stderr
    assert "still there" in done.stdout
    assert all(wait_until_gone(pid) for pid in workers)


def test_an_environment_of_the_main_script_is_refused(tmp_path: Path) -> None:
    done, _ = run_script(tmp_path, "own")
    assert "RolloutError: make_env is defined in the main script" in done.stderr
