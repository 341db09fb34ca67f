"""Whatever is typed: a configuration that can be built, or one message and exit code 1."""

from __future__ import annotations

import logging
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp import build, cli
from rmexp.config import config_dir
from rmexp.errors import RmexpError
from rmexp.explain import explain
from rmexp.run_dir import flatten, with_absolute_paths
from tests.command_line import TINY, run_here

pytestmark = pytest.mark.faults

GROUPS = ("algo", "dataset", "loop", "rollout", "logging", "debug", "experiment", "sweep")
CHOICES = {
    group: sorted(file.stem for file in (config_dir() / group).glob("*.yaml")) for group in GROUPS
}
VALUES = (
    *("1", "0", "-1", "1e-3", "1e999", "nan", "inf", "9" * 400, "0x1F", "1_000", "01", "2.5"),
    *("true", "FALSE", "yes", "null", "None", "", " ", "''", '""', "???", "a", "a b", "a=b"),
    *("[]", "[1,2]", "[1,[2]]", "[", "]", "[1,", "{}", "{a:1}", "{a:", "}", "(", ")", ",", ":"),
    *(
        "[null]",
        "{_target_:os.system}",
        "[{_target_:a.b}]",
        "'",
        '"',
        "\\",
        "'a",
        "\u00e9",
        "\u202e",
    ),
    *("${seed}", "${algo}", "${nothing}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${", "${}", "$"),
    *("${algo.lr}", "${oc.decode:[}", "${rmexp.asset:x}", "${rmexp.asset:}", "${now:%Y}", "${a:b}"),
    *("os.system", "rmexp.algo.bc.BC", "rmexp", "rmexp.algo", "..", "a..b", "/", "~", "../..", "*"),
    *(
        "choice(1,2)",
        "range(3)",
        "glob(*)",
        "int(a)",
        "shuffle(1)",
        "1,2",
        "sort(1)",
        "f()",
        "json_str({})",
    ),
)


PLAIN = ("1", "0.5", "null", "true", "[1]", "name", "-1")


def known_keys() -> list[str]:
    plain: Any = build_plain([])
    return sorted(key for key in flatten(plain) if "." in key)


def build_plain(words: list[str]) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=words, return_hydra_config=True)
    return OmegaConf.to_container(config, resolve=False)


KEYS = known_keys()


@st.composite
def keys(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from(KEYS) | st.sampled_from(GROUPS) | st.text(max_size=6))
    change = draw(st.integers(0, 9))
    if change == 0:
        key += draw(
            st.sampled_from((".x", "._target_", "[0]", ".0", ".", "..", "@x", "/head", " "))
        )
    if change == 1:
        key = key[:-1]
    if change == 2:
        key = key.rpartition(".")[0]
    return draw(st.sampled_from(("", "", "", "", "+", "++", "~", "+~"))) + key


@st.composite
def overrides(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    if kind < 4:
        group = draw(st.sampled_from(GROUPS))
        return f"{group}={draw(st.sampled_from(CHOICES[group]))}"
    if kind < 7:
        return f"{draw(st.sampled_from(KEYS))}={draw(st.sampled_from(PLAIN))}"
    if kind == 7:
        return draw(st.text(max_size=20))
    return f"{draw(keys())}={draw(st.sampled_from(VALUES) | st.text(max_size=8))}"


words = st.lists(overrides(), min_size=1, max_size=3).map(
    lambda found: [word for word in found if not word.startswith("-") and "\0" not in word]
)


UNHEALTHY = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)


def mode(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--faults") or "ci"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RMEXP_TEST_DATA", "nowhere")
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    GlobalHydra.instance().clear()


def outcome(typed: list[str]) -> str:
    """What `cli.main` does with its words up to the first read of data."""
    sys.argv[1:] = typed
    try:
        cli._check_before_hydra(typed)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("config", overrides=["name=fuzz", *cli._for_hydra(typed)])
        absolute = with_absolute_paths(config)
        build.check_config(absolute)
        assert isinstance(absolute, DictConfig)
        build.loop_settings(absolute)
        build.views(absolute)
    except (HydraException, OmegaConfBaseException, RmexpError, OSError) as error:
        return "refused" if explain(error, typed).strip() else "refused without a word"
    except Exception as error:  # of Hydra's, which `cli.main` tells in a line like this one
        ours = "/rmexp/" in traceback.extract_tb(error.__traceback__)[-1].filename
        return "refused" if str(error) and not ours else f"{typed}: {error!r}"
    return "built"


@pytest.mark.usefixtures("quiet")
def test_any_words_build_or_are_refused(request: pytest.FixtureRequest) -> None:
    ends = Counter[str]()
    argv, count = list(sys.argv), 4000 if mode(request) == "long" else 150

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*UNHEALTHY],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(words)
    def check(typed: list[str]) -> None:
        ends[outcome(typed)] += 1

    try:
        check()
    finally:
        sys.argv[:] = argv
    print(f"{sum(ends.values())} lists of overrides: {dict(ends)}")  # noqa: T201
    assert set(ends) == {"built", "refused"}


def test_the_command_says_one_thing_and_exits_with_0_or_1(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same words through the whole command, which trains where it can."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    codes: list[int] = []

    @settings(
        max_examples=100 if mode(request) == "long" else 8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*UNHEALTHY],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(words)
    def check(typed: list[str]) -> None:
        risky = ("hydra", "paths", "resume", "num_threads", "logging", "rollout")
        kept = [word for word in typed if not word.lstrip("+~").startswith(risky)]
        done = run_here([*kept, *TINY], monkeypatch, capfd)
        codes.append(done.code)
        assert done.code in (0, 1), done.text
        assert "Traceback" not in done.text
        if done.code == 1:
            assert done.err.count("error: ") >= 1

    check()
    assert 1 in codes
