"""What hierarchical policies share: parts that are algorithms themselves, and subgoals that last.

The whole owns what its parts own, so that one checkpoint holds everything and one generator decides
every draw; when acting, each environment has a subgoal of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.bc_rnn import BCRNN
from rmexp.algo.gl import GL
from rmexp.draws import Draws
from rmexp.errors import ConfigError, require

Obs = Mapping[str, Tensor]


def adopt(whole: Algo, parts: Mapping[str, Algo]) -> None:
    """Networks, optimisers and draws of `parts` become those of `whole`, by each part's name."""
    for name, part in parts.items():
        assert not part.counters, f"{type(part).__name__} counts steps of its own"
        whole.nets[name] = part.nets
        for own, optimizer in part.optimizers.items():
            whole.optimizers[own if own.startswith(name) else f"{name}_{own}"] = optimizer
        part.draws = whole.draws


def joined_info(infos: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`loss`, the sum of the parts' losses, and `<part>_<name>` for all that a part reports."""
    joined = {"loss": torch.stack([info["loss"].detach() for info in infos.values()]).sum()}
    for name, info in infos.items():
        joined |= {k if k.startswith(name) else f"{name}_{k}": value for k, value in info.items()}
    return joined


def check_settings(
    spec: Spec,
    seq_length: int,
    subgoal_update_interval: int,
    *,
    cascade: bool,
    use_random_subgoals: bool,
) -> None:
    """Refuse what does not fit the windows, or each other."""
    if seq_length != spec.seq_length:
        raise ConfigError(
            f"algo.seq_length={seq_length}, dataset.seq_length={spec.seq_length}: planner and "
            "actor learn from the same windows; set algo.planner.subgoal_horizon alone and leave "
            "both lengths as they are"
        )
    interval = subgoal_update_interval
    require(interval >= 1, "algo.subgoal_update_interval", interval, "at least 1")
    if cascade and use_random_subgoals:
        raise ConfigError(
            "algo.mode=cascade, algo.actor_use_random_subgoals=true: in a cascade the actor's "
            "subgoals are the planner's; set one of the two back"
        )


def windows_and_subgoals(planner: GL, actor: BCRNN, batch: Batch) -> Batch:
    """Windows as the loader gives them -> what a hierarchical policy learns from.

    {obs and subgoal_obs: {k: (B, T, D_k)}, actions: (B, T, A)}; subgoal_obs are what is seen after
    each step. With `goal_obs` {k: (B, D_k)} where there are goals.
    """
    windows = actor.process_batch_for_training({**batch, "goal_obs": {}})
    later = batch.get("future_obs") or batch["next_obs"]
    subgoals = {k: later[k].to(planner.device) for k in planner.subgoal_shapes}
    ready = {"obs": windows["obs"], "actions": windows["actions"], "subgoal_obs": subgoals}
    if planner.spec.goal_shapes:
        ready["goal_obs"] = {k: v.to(planner.device) for k, v in batch["goal_obs"].items()}
    return ready


def present_of(planner: GL, batch: Batch) -> Batch:
    """Of such windows what the planner learns from: their first step, and its subgoal."""
    last = planner.subgoal_horizon - 1
    obs = {k: v[:, 0] for k, v in batch["obs"].items()}
    subgoal = {k: v[:, last] for k, v in batch["subgoal_obs"].items()}
    return {**batch, "obs": obs, "subgoal_obs": subgoal}


def update(part: Algo, batch: Batch, epoch: int, validate: bool) -> dict[str, Tensor]:
    """One part's update; while training, on images that are augmented for it alone."""
    return part.train_on_batch(batch if validate else part.augmented(batch), epoch, validate)


def any_step(later: Obs, draws: Draws) -> dict[str, Tensor]:
    """What is seen after a step of the window that is drawn: {k: (B, T, D_k)} -> {k: (B, D_k)}."""
    rows, steps = next(iter(later.values())).shape[:2]
    chosen = draws.randint(0, steps, (rows,))
    return {k: v[torch.arange(rows, device=v.device), chosen] for k, v in later.items()}


@dataclass
class _Held:
    subgoal: dict[str, Tensor]
    steps: int = 0


class SubgoalMemory:
    """The subgoal of every environment, which is renewed every `interval` steps.

    Environments have numbers; a negative one is a padding row and is not remembered.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._held: dict[int, _Held] = {}

    def step(self, envs: Sequence[int], propose: Callable[[list[int]], Obs]) -> dict[str, Tensor]:
        """The subgoals {k: (B, D_k)} of this step.

        Where it is time for new ones `propose(rows)` is asked, which answers for these rows of the
        batch in turn. A padding row repeats another's.
        """
        due = [row for row, env in enumerate(envs) if env >= 0 and self._is_due(env)]
        if due:
            proposed = propose(due)
            for i, row in enumerate(due):
                self._held[envs[row]] = _Held({k: v[i] for k, v in proposed.items()})
        held = {env: self._held[env] for env in envs if env >= 0}
        for memory in held.values():
            memory.steps += 1
        spare = next(iter(held.values()))
        rows = [held.get(env, spare).subgoal for env in envs]
        return {k: torch.stack([row[k] for row in rows]) for k in spare.subgoal}

    def reset(self, envs: Iterable[int] | None) -> None:
        """A new episode begins in `envs`, or in all environments."""
        for env in list(self._held) if envs is None else envs:
            self._held.pop(env, None)

    def _is_due(self, env: int) -> bool:
        return env not in self._held or self._held[env].steps == self.interval
