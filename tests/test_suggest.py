from __future__ import annotations

import subprocess
import sys

import pytest

from rmexp.suggest import did_you_mean, nearest, proposals, question


@pytest.mark.parametrize(
    ("word", "near", "mean"),
    [
        ("lrr", "; did you mean 'lr'?", "; did you mean 'lr'?"),
        ("xyz", "", "; it has lr, seed"),
    ],
)
def test_a_near_word_or_the_whole_list(word: str, near: str, mean: str) -> None:
    known = {"seed": 0, "lr": 1}
    assert nearest(word, known) == near
    assert did_you_mean(word, known) == mean


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("bcc", ["bc", "bcq", "bc_gmm", "act"], ["bc", "bcq"]),
        ("BC", ["bc", "bcq"], ["bc"]),
        ("lr", ["tau", "actor_lr", "actor_lr_schedule", "critic_lr"], ["actor_lr", "critic_lr"]),
        ("lr", ["lr_schedule", "actor_lr"], ["actor_lr", "lr_schedule"]),
        ("xyz", ["lr", "seed"], []),
    ],
)
def test_several_that_are_as_near(word: str, known: list[str], expected: list[str]) -> None:
    assert proposals(word, known) == expected


def test_several_make_one_question() -> None:
    assert question("a") == "; did you mean 'a'?"
    assert question("ab") == "; did you mean 'a' or 'b'?"
    assert question("abc") == "; did you mean 'a', 'b' or 'c'?"
    assert question("") == ""


def test_a_long_list_or_none_is_not_shown() -> None:
    assert did_you_mean("xyz", [f"key_{i}" for i in range(41)]) == ""
    assert did_you_mean("xyz", []) == ""


def test_it_is_light() -> None:
    code = "import sys, rmexp.suggest; print({'hydra', 'omegaconf', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
