"""A recurrent actor, and what it remembers of each environment while it acts.

Training unrolls whole windows; acting takes one step for many environments at once, each with a
hidden state of its own, so that no episode depends on which others are acted for beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.nets.encoders import ImageEncoding, Shape
from rmexp.nets.mlp import MLP, Obs, ObservationEncoder, linear

State = tuple[Tensor, ...]
"""LSTM: hidden and cell state; GRU: hidden state. Each is (L, B, H): layers, batch, width."""


class RecurrentActor(nn.Module):
    """Observations (and goals) of a window -> {output name: (B, T, width)}."""

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
        rnn_type: Literal["lstm", "gru"],
        hidden_dim: int,
        num_layers: int,
        layer_dims: Sequence[int],
        output_dims: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(obs_shapes, encoding, goal_shapes)
        self.mlp = MLP(hidden_dim, layer_dims)
        self.decoder = nn.ModuleDict(
            {name: nn.Linear(self.mlp.out_dim, width) for name, width in output_dims.items()}
        )
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[rnn_type]
        self.rnn = kind(self.encoder.out_dim, hidden_dim, num_layers, batch_first=True)

    def forward(self, obs: Obs, goal: Obs | None = None) -> dict[str, Tensor]:
        """obs {k: (B, T, D_k)}, goal {k: (B, D_k)} -> {name: (B, T, width)}, from a zero state.

        A zero state contributes nothing to the first step's gates, so on a CPU, where the matrix
        products are all that counts, an LSTM's first step is taken without them: 3 % at T = 10.
        """
        inputs = self.encoder(obs, goal)
        if not isinstance(self.rnn, nn.LSTM) or inputs.is_cuda or inputs.shape[1] == 1:
            return self._decode(self.rnn(inputs)[0])
        hidden, cells, below = [], [], inputs[:, 0]
        for weight, _, bias, recurrent_bias in self.rnn.all_weights:
            gates = F.linear(below, weight, bias + recurrent_bias)
            entrance, _, candidate, output = gates.chunk(4, dim=-1)
            cell = torch.sigmoid(entrance) * torch.tanh(candidate)
            below = torch.sigmoid(output) * torch.tanh(cell)
            hidden.append(below)
            cells.append(cell)
        rest, _ = self.rnn(inputs[:, 1:], (torch.stack(hidden), torch.stack(cells)))
        return self._decode(torch.cat([below.unsqueeze(1), rest], dim=1))

    def step(self, obs: Obs, goal: Obs | None, state: State) -> tuple[dict[str, Tensor], State]:
        """obs and goal {k: (B, D_k)} -> {name: (B, width)} and the state after this step."""
        given = state if len(state) == 2 else state[0]
        hidden, after = self.rnn(self.encoder(obs, goal).unsqueeze(1), given)
        return self._decode(hidden.squeeze(1)), after if len(state) == 2 else (after,)

    def initial_state(self) -> State:
        """Zeros for one environment: (L, H) each."""
        weight = next(self.rnn.parameters())
        zeros = weight.new_zeros(self.rnn.num_layers, self.rnn.hidden_size)
        return (zeros, zeros) if self.rnn.mode == "LSTM" else (zeros,)

    def _decode(self, hidden: Tensor) -> dict[str, Tensor]:
        """One product for all outputs: they are narrow, and many small products cost more."""
        layers = [cast("nn.Linear", layer) for layer in self.decoder.values()]
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        outputs = linear(self.mlp(hidden), weight, bias)
        parts = outputs.split([layer.out_features for layer in layers], dim=-1)
        return dict(zip(self.decoder.keys(), parts, strict=True))


@dataclass
class _Memory:
    steps: int
    state: State
    first_obs: dict[str, Tensor]


class RecurrentMemory:
    """The hidden state of every environment; it starts from zero every `horizon` steps.

    With `open_loop` the actor is shown the first observation of each such stretch throughout.
    """

    def __init__(self, actor: RecurrentActor, *, horizon: int, open_loop: bool) -> None:
        self.actor = actor
        self.horizon = horizon
        self.open_loop = open_loop
        self._memories: dict[int, _Memory] = {}

    def step(self, obs: Obs, goal: Obs | None, envs: Sequence[int] | None) -> dict[str, Tensor]:
        """obs, goal {k: (B, D_k)} of environments `envs` -> {name: (B, width)}."""
        envs = range(len(next(iter(obs.values())))) if envs is None else envs
        memories = [self._recall(env, row, obs) for row, env in enumerate(envs)]
        if self.open_loop:
            obs = {key: torch.stack([m.first_obs[key] for m in memories]) for key in obs}
        states = zip(*(memory.state for memory in memories), strict=True)

        outputs, after = self.actor.step(obs, goal, tuple(torch.stack(s, dim=1) for s in states))

        for row, (env, memory) in enumerate(zip(envs, memories, strict=True)):
            memory.state = tuple(part[:, row] for part in after)
            memory.steps += 1
            if env >= 0:  # the others are padding
                self._memories[env] = memory
        return outputs

    def reset(self, envs: Sequence[int] | None) -> None:
        """Forget these environments, or all of them."""
        for env in list(self._memories) if envs is None else envs:
            self._memories.pop(env, None)

    def _recall(self, env: int, row: int, obs: Obs) -> _Memory:
        memory = self._memories.get(env)
        if memory is None or memory.steps % self.horizon == 0:
            first = {key: value[row] for key, value in obs.items()} if self.open_loop else {}
            return _Memory(0, self.actor.initial_state(), first)
        return memory
