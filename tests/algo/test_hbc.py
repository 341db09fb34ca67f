"""HBC: which subgoal the actor learns with, that it sees it, and how long it lasts when acting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rmexp import checkpoint
from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.errors import ConfigError
from rmexp.policy import ROWS, Policy
from tests.algo.episodes_check import check_episodes_are_their_own
from tests.algo.golden_case import CPU, LIFT
from tests.algo.hierarchies import (
    STEPS,
    hierarchy,
    observations,
    reads_nothing_back,
    state_survives,
    windows,
)
from tests.algo.offline_rl import built, step
from tests.command_line import TINY, rows, run_here

LATENT = "algo.latent_subgoal=true"
VARIANTS = {
    "separate": [],
    "cascade": ["algo.mode=cascade"],
    "random": ["algo.actor_use_random_subgoals=true"],
    "latent": [LATENT],
    "prior": [LATENT, "algo.prior_correction_samples=6"],
    "gl": ["algo@algo.planner=gl"],
    "gmm": ["algo@algo.actor=bc_rnn_gmm"],
}


def hbc(variant: str = "separate", *more: str, **spec: Any) -> Any:
    if variant == "gl":
        small = ["algo=hbc", "algo@algo.planner=gl", f"algo.planner.subgoal_horizon={STEPS}"]
        small += ["algo.subgoal_update_interval=3", "algo.actor.hidden_dim=12"]
        return built(*small, *more, **{"seq_length": STEPS, **spec})
    return hierarchy("hbc", *VARIANTS[variant], *more, **spec)


def told(algo: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The subgoals that the actor learns with in one training step."""
    seen: list[dict[str, Tensor]] = []
    learn = algo.actor.train_on_batch

    def watched(part: Any, epoch: int, validate: bool) -> Any:
        seen.append(part["goal_obs"])
        return learn(part, epoch, validate)

    algo.actor.train_on_batch = watched
    step(algo, batch)
    algo.actor.train_on_batch = learn
    return seen[0]


def asked(algo: Any) -> list[list[int]]:
    """Will list, for each time that the planner is asked, the number of its rows."""
    calls: list[list[int]] = []
    propose = algo.propose

    def watched(obs: Any, goal: Any, draws: Any) -> Any:
        calls.append(draws.rows.tolist())
        return propose(obs, goal, draws)

    algo.propose = watched
    return calls


def test_parameter_counts_are_the_references_and_the_subgoals() -> None:
    """Its actor has 3,424,199: defect R1; ours has 19 more inputs into 4 gates of 400."""
    algo = built("algo=hbc", seq_length=10)
    assert algo.planner.num_parameters() == 283_751
    assert algo.actor.num_parameters() == 3_424_199 + 4 * 400 * 19
    blind = built("algo=hbc", "algo.actor_sees_subgoal=false", seq_length=10)
    assert blind.actor.num_parameters() == 3_424_199


def test_the_actor_learns_with_the_end_of_the_window() -> None:
    batch = windows()
    for key, subgoal in told(hbc(), batch).items():
        assert torch.equal(subgoal, batch["next_obs"][key][:, STEPS - 1])
    half = hbc("separate", "algo.planner.subgoal_horizon=2", "algo.seq_length=4")
    for key, subgoal in told(half, batch).items():
        assert torch.equal(subgoal, batch["next_obs"][key][:, 1])


def test_random_subgoals_come_from_all_steps() -> None:
    """With them the reference's HBC ends in a KeyError."""
    algo, batch = hbc("random"), windows(size=40)
    chosen = told(algo, batch)
    later = batch["next_obs"]["object"]
    found = (chosen["object"].unsqueeze(1) == later).all(-1)
    assert torch.equal(found.sum(1), torch.ones(40, dtype=torch.long))
    steps = found.float().argmax(1)
    assert set(steps.tolist()) == set(range(STEPS))
    rows = torch.arange(40)
    for key, subgoal in chosen.items():
        assert torch.equal(subgoal, batch["next_obs"][key][rows, steps])


def test_a_cascade_learns_with_the_plan() -> None:
    algo, batch = hbc("cascade"), windows()
    chosen = told(algo, batch)
    assert not torch.equal(chosen["object"], batch["next_obs"]["object"][:, -1])
    assert {k: v.shape for k, v in chosen.items()} == {k: (5, *s) for k, s in LIFT.items()}
    assert not chosen["object"].requires_grad


def test_latent_subgoals_by_hand() -> None:
    """The posterior's latent; with a correction the nearest of the prior's, which are its draws."""
    algo, batch = hbc("latent"), windows()
    before = algo.draws["train"].state_dict()
    planner = algo.planner.planner
    first = {k: v[:, 0] for k, v in batch["obs"].items()}
    flat = torch.cat([batch["next_obs"][k][:, -1] for k in sorted(batch["next_obs"])], dim=-1)
    with torch.no_grad():
        posterior = planner.encoder(first, None, flat)
    chosen = told(algo, batch)["latent_subgoal"]
    assert chosen.shape == (5, algo.planner.planner.latent_width)
    draws = SeededDraws(0, CPU)
    draws.load_state_dict(before)
    noise = draws.randn((5, 5))
    z = posterior["mean"] + (0.5 * posterior["logvar"]).exp() * noise
    torch.testing.assert_close(chosen, z)

    corrected = hbc("prior")
    with torch.no_grad():
        posterior = corrected.planner.planner.encoder(first, None, flat)
    draws.load_state_dict(corrected.draws["train"].state_dict())
    z = posterior["mean"] + (0.5 * posterior["logvar"]).exp() * draws.randn((5, 5))
    candidates = draws.randn((5, 6, 5))
    nearest = (candidates - z.unsqueeze(1)).norm(dim=-1).argmin(1)
    chosen = told(corrected, batch)["latent_subgoal"]
    torch.testing.assert_close(chosen, candidates[torch.arange(5), nearest])


@pytest.mark.parametrize("variant", ["separate", "latent", "gl"])
def test_the_actor_sees_its_subgoal(variant: str) -> None:
    """Defect R1 of the reference: there it does not, in training or acting."""
    algo = hbc(variant)
    algo.set_eval()
    obs = observations(3)
    goal = {k: torch.zeros(3, *s) for k, s in algo.actor.spec.goal_shapes.items()}
    assert goal
    algo.propose = lambda *_: goal
    first = algo.get_action(obs)
    goal = {k: v + 1.0 for k, v in goal.items()}
    algo.reset()
    assert (algo.get_action(obs) != first).any(1).all()

    step(algo := hbc(variant), windows())
    goal_inputs = algo.actor.actor.rnn.weight_ih_l0.grad[:, 19:]
    assert goal_inputs.shape[1] == sum(s[0] for s in algo.actor.spec.goal_shapes.values())
    assert goal_inputs.abs().amax(0).min() > 0


def test_an_actor_without_subgoals_is_bc_rnn() -> None:
    """As the reference's are: nothing of the planner reaches it."""
    algo = hbc("separate", "algo.actor_sees_subgoal=false")
    algo.set_eval()
    obs = observations(3)
    first = algo.get_action(obs)
    algo.reset()
    algo.propose = lambda obs, goal, draws: {k: v + 5.0 for k, v in obs.items()}
    assert torch.equal(algo.get_action(obs), first)
    assert algo.actor.actor.encoder.goal is None


def test_a_subgoal_lasts_and_is_renewed() -> None:
    """Interval 3, environment by environment, whenever it began and whatever row it has."""
    algo = hbc()
    algo.set_eval()
    calls = asked(algo)
    obs = observations(2)
    for _ in range(4):
        algo.get_action(obs, envs=[7, 4])
    assert calls == [[0, 1], [0, 1]]  # at steps 0 and 3
    algo.reset([4])
    algo.get_action(obs, envs=[4, 7])  # 4 begins; 7 has its second step of three
    algo.get_action(obs, envs=[7, 4])
    assert calls[2:] == [[0]]
    algo.get_action(obs, envs=[7, 4])
    assert calls[2:] == [[0], [0]]  # now 7's are over
    algo.get_action(obs, envs=[7, 4])
    assert calls[2:] == [[0], [0], [1]]
    algo.reset()
    algo.get_action(obs, envs=[7, 4])
    assert calls[5:] == [[0, 1]]


def test_the_subgoal_is_kept_while_the_actor_forgets() -> None:
    """Hidden states start afresh every window of 4, subgoals every 3 steps: by hand."""
    algo = hbc()
    algo.set_eval()
    plans = [{k: torch.full((1, *s), float(i)) for k, s in LIFT.items()} for i in range(3)]
    queue = list(plans)
    algo.propose = lambda *_: queue.pop(0)
    steps = [observations(1, seed=i) for i in range(8)]
    acted = torch.cat([algo.get_action(obs) for obs in steps])
    assert not queue
    actor, state = algo.actor.actor, None
    for i, obs in enumerate(steps):
        if i % STEPS == 0:
            state = tuple(part.unsqueeze(1) for part in actor.initial_state())
        outputs, state = actor.step(obs, plans[i // 3], state)
        torch.testing.assert_close(acted[i], torch.tanh(outputs["action"])[0])


@pytest.mark.parametrize("variant", ["separate", "latent", "gmm"])
def test_an_episode_does_not_depend_on_who_else_acts(variant: str) -> None:
    more = ["algo.actor.head.low_noise_eval=false"] if variant == "gmm" else []
    check_episodes_are_their_own(Policy(hbc(variant, *more), None, None), ROWS + 3)


def test_padding_rows_are_not_remembered() -> None:
    algo = hbc()
    algo.set_eval()
    draws = EpisodeDraws([SeededDraws(i, CPU) for i in range(3)], CPU)
    obs = {k: v[[0, 1, 1]] for k, v in observations(2).items()}
    acted = algo.get_action(obs, draws=draws, envs=[5, 2, -1])
    assert torch.isfinite(acted).all()
    assert set(algo.memory._held) == {5, 2}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_state_survives_bit_for_bit(variant: str) -> None:
    """And with `load_optimizers`, which the reference's HBC does not take: defect R2."""
    state_survives(lambda: hbc(variant), windows)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_it_learns(variant: str) -> None:
    algo = hbc(variant, "algo.actor.lr=1e-2", "algo.planner.lr=1e-2")
    batch = windows(size=3)
    history = [step(algo, batch) for _ in range(60)]
    for part in ("planner_loss", "actor_loss"):
        assert history[-1][part] < history[0][part]
    first = history[0]
    assert first["loss"] == pytest.approx(first["planner_loss"] + first["actor_loss"])
    assert {"planner_grad_norm", "actor_grad_norm", "optimizer/planner_lr"} <= set(first)


def test_goals_reach_the_planner() -> None:
    algo = hbc("separate", goal_shapes={"object": (10,)})
    assert "object" in algo.actor.spec.goal_shapes  # the subgoal's, not the goal's
    batch = {**windows(), "goal_obs": {"object": torch.randn(5, 10)}}
    assert step(algo, batch)["planner_grad_norm"] > 0
    algo.set_eval()
    goals = [{"object": torch.full((2, 10), value)} for value in (0.0, 3.0)]
    acted: list[Tensor] = []
    for goal in goals:
        algo.reset()
        draws = EpisodeDraws([SeededDraws(i, CPU) for i in range(2)], CPU)
        acted.append(algo.get_action(observations(2), goal, draws=draws))
    assert not torch.equal(*acted)


def test_an_update_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    reads_nothing_back(hbc(), monkeypatch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: hbc(seq_length=5), r"algo\.seq_length=4, dataset\.seq_length=5"),
        (
            lambda: hbc("cascade", "algo.actor_use_random_subgoals=true"),
            r"algo\.mode=cascade, algo\.actor_use_random_subgoals=true",
        ),
        (
            lambda: hbc("separate", "algo.prior_correction_samples=6"),
            r"algo\.latent_subgoal: False must be true for prior_correction_samples",
        ),
        (lambda: hbc("gl", LATENT), r"algo\.latent_subgoal=true: .*algo@algo\.planner=gl_vae"),
        (
            lambda: hbc("separate", "algo.seq_length=3", seq_length=3),
            r"algo\.subgoal_horizon=4, algo\.seq_length=3",
        ),
        (
            lambda: hbc("separate", "algo.actor.seq_length=3"),
            r"algo\.seq_length=3, dataset\.seq_length=4",
        ),
        (lambda: hbc("separate", "algo.subgoal_update_interval=0"), r"subgoal_update_interval: 0"),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a file without next_obs; with the reference it ends in a TypeError: defect R2."""
    tiny = [word for word in TINY if not word.startswith("algo.")]
    small = ["algo=hbc", "algo.planner.subgoal_horizon=4", "algo.actor.hidden_dim=12"]
    small += ["algo.actor.actor_layer_dims=[11]", *tiny]

    def run(*words: str) -> None:
        outcome = run_here(list(words), monkeypatch, capfd)
        assert outcome.code == 0, outcome.text

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(*small, "loop.num_epochs=4", f"hydra.run.dir={whole}")
    run(*small, f"hydra.run.dir={parts}")
    run(f"resume={parts}", "loop.num_epochs=4")
    assert rows(parts) == rows(whole)
    a, b = (checkpoint.load(path / "checkpoints" / "last.pt") for path in (parts, whole))
    for key, value in b["algo"]["nets"].items():
        assert torch.equal(a["algo"]["nets"][key], value), key

    policy = Policy.load(parts / "checkpoints" / "last.pt")
    policy.reset(0, seed=0)
    shapes = policy.algo.spec.obs_shapes
    obs = {k: np.zeros((1, *s), np.float32) for k, s in shapes.items()}
    assert policy.act(obs, [0]).shape == (1, policy.algo.spec.ac_dim)
