from __future__ import annotations

import subprocess
import sys

import pytest

from rmexp.suggest import did_you_mean, nearest


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


def test_a_long_list_or_none_is_not_shown() -> None:
    assert did_you_mean("xyz", [f"key_{i}" for i in range(41)]) == ""
    assert did_you_mean("xyz", []) == ""


def test_it_is_light() -> None:
    code = "import sys, rmexp.suggest; print({'hydra', 'omegaconf', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
