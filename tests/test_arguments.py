"""The key=value grammar: what is typed, what is refused, and what the refusal says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rmexp.arguments import argument, help_text, parse, run_command
from rmexp.errors import ConfigError


@dataclass(kw_only=True)
class Baking:
    """Bake bread.

    Not shown.
    """

    flour: str = argument("kind of flour", choices=("rye", "wheat"))
    grams: int = argument("weight of the dough", default=500)
    salt: float | None = argument("share of salt", default=None)
    seeds: list[str] = argument("what goes on top", default=["poppy"])  # noqa: RUF009
    steam: bool = argument("wet oven", default=True)
    minutes: int = argument("time in the oven", default=0)


def test_words_become_typed_values_and_the_rest_keeps_its_default():
    baking = parse(Baking, ["flour=rye", "salt=2e-2", "seeds=[sesame,flax]"], prog="bake")

    assert baking == Baking(flour="rye", grams=500, salt=0.02, seeds=["sesame", "flax"], steam=True)


def test_a_default_list_is_not_shared():
    first, second = (parse(Baking, ["flour=rye"], prog="bake") for _ in range(2))
    first.seeds.append("linseed")

    assert second.seeds == ["poppy"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["flour=rye", "gram=3"], ["no argument 'gram'", "'grams'", "flour, grams, salt"]),
        (["flour"], ["'flour' is not key=value, such as flour=flour", "flour, grams"]),
        (["grams=3"], ["flour=... is required", "kind of flour"]),
        (["flour=rye", "grams=many"], ["grams=many", "Integer"]),
        (["flour=rie"], ["flour=rie", "did you mean 'rye'", "rye | wheat"]),
        (["flour=rye", "seeds=poppy"], ["seeds=poppy"]),
    ],
)
def test_a_wrong_word_is_named_with_its_remedy(argv: list[str], parts: list[str]):
    with pytest.raises(ConfigError) as caught:
        parse(Baking, argv, prog="bake")

    assert [part for part in parts if part not in str(caught.value)] == []


def test_help_shows_every_argument_once(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse(Baking, ["flour=rye", "--help"], prog="bake")

    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text(Baking, prog="bake")
    assert "Bake bread." in text
    assert "Not shown" not in text
    for line in (
        "flour=...",
        "grams=500",
        "salt=null",
        "seeds=[poppy]",
        "steam=true",
        "minutes=0 ",
    ):
        assert text.count(line) == 1
    assert "kind of flour (rye | wheat)" in text


def test_the_exit_code_tells_success_mistake_and_interruption(capsys: pytest.CaptureFixture[str]):
    def interrupted(baking: Baking) -> None:
        raise KeyboardInterrupt("the oven is off")

    def fine(baking: Baking) -> None:
        assert baking.grams == 3

    assert run_command(Baking, fine, prog="bake", argv=["flour=rye", "grams=3"]) == 0
    assert run_command(Baking, fine, prog="bake", argv=["gram=3"]) == 1
    assert run_command(Baking, interrupted, prog="bake", argv=["flour=rye"]) == 130

    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: bake: no argument 'gram'")
    assert errors[1] == "interrupted: the oven is off"
