from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rmexp.algo.base import Spec
from rmexp.algo.bc import BC
from rmexp.algo.optim import MultiStep
from rmexp.errors import NonFiniteError
from rmexp.loop import run_epoch
from rmexp.metrics import EpochProgress
from rmexp.nets.heads import Deterministic
from tests.algo.golden_case import encoding

D, A = 5, 3


class Foreign:
    """An algorithm of another library: the same methods, floats out of `log_info`."""

    def __init__(self) -> None:
        self.linear = nn.Linear(D, A)
        self.net = nn.Sequential(self.linear, nn.Dropout(0.5))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.calls: list[str] = []
        self.gradient_steps = 0

    def set_train(self) -> None:
        self.net.train()

    def set_eval(self) -> None:
        self.net.eval()

    def process_batch_for_training(self, batch: Any) -> Any:
        self.calls.append("process")
        return {"x": batch["x"].float(), "y": batch["y"]}

    def postprocess_batch_for_training(
        self, batch: Any, obs_normalization_stats: Any = None
    ) -> Any:
        self.calls.append("postprocess")
        if obs_normalization_stats is not None:
            batch["x"] = batch["x"] * obs_normalization_stats
        return batch

    def train_on_batch(self, batch: Any, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        self.calls.append("validate" if validate else "train")
        assert validate or self.net.training
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        if not validate:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": loss}

    def on_gradient_step(self) -> None:
        self.gradient_steps += 1

    def log_info(self, info: Mapping[str, Tensor]) -> dict[str, float]:
        return {"Loss": float(info["loss"].detach()), "Optimizer/net_lr": 0.1}


def batches(n: int = 7, rows: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "x": torch.randn(rows, D, generator=generator),
            "y": torch.randn(rows, A, generator=generator),
        }
        for _ in range(n)
    ]


def test_one_pass_in_the_order_of_the_protocol() -> None:
    model = Foreign()
    row = run_epoch(model, batches(2), epoch=1)
    assert model.calls == ["process", "postprocess", "train"] * 2
    assert model.gradient_steps == 2
    assert row.keys() >= {"Loss", "Optimizer/net_lr", "throughput/steps_per_s"}
    parts = ["data_loading", "process_batch", "train_batch", "log_info"]
    seconds = [row[f"time/{part}_s"] for part in parts]
    assert all(s > 0 for s in seconds)
    assert sum(seconds) == pytest.approx(row["time/epoch_s"], rel=1e-9)


def test_what_counts_gradient_steps_may_be_absent() -> None:
    """Robomimic 0.3, the version that pip installs, has no such method."""
    names = [name for name in vars(Foreign) if name[0] != "_" and name != "on_gradient_step"]
    foreign = Foreign()
    model: Any = SimpleNamespace(**{name: getattr(foreign, name) for name in names})
    assert not hasattr(model, "on_gradient_step")
    assert run_epoch(model, batches(2), epoch=1)["Loss"] > 0


def test_num_steps_goes_round_the_loader() -> None:
    model = Foreign()
    run_epoch(model, batches(3), epoch=1, num_steps=7)
    assert model.gradient_steps == 7


def test_a_loader_without_batches_is_said_to_be_empty() -> None:
    with pytest.raises(ValueError, match="the loader yielded no batch: an empty list"):
        run_epoch(Foreign(), [], 1, num_steps=3)


class AtTheEnd(list[Any]):
    """Stands at the end of its pass when it is first asked."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.asked = 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        return iter([]) if self.asked == 1 else super().__iter__()


def test_a_loader_may_stand_at_the_end_of_its_pass() -> None:
    model = Foreign()
    run_epoch(model, AtTheEnd(batches(2)), 1, num_steps=3)
    assert model.gradient_steps == 3


def test_a_device_may_be_a_word() -> None:
    model = Foreign()
    model.device = "cpu"  # pyright: ignore[reportAttributeAccessIssue]
    assert run_epoch(model, batches(2), 1)["time/train_batch_s"] > 0


def test_a_torch_dataloader_feeds_the_loop() -> None:
    rows = [{"x": torch.randn(D), "y": torch.randn(A)} for _ in range(10)]
    loader: Any = DataLoader(rows, batch_size=4)  # type: ignore[arg-type]
    model = Foreign()
    run_epoch(model, loader, epoch=1)
    assert model.gradient_steps == 3


def test_a_torch_dataloader_feeds_an_algorithm_of_ours() -> None:
    shapes = {"object": (4,), "robot0_eef_pos": (3,)}
    windows = [
        {
            "obs": {key: torch.randn(1, *shape) for key, shape in shapes.items()},
            "actions": torch.rand(1, A) * 2 - 1,
        }
        for _ in range(10)
    ]
    spec = Spec(
        obs_shapes=shapes,
        goal_shapes={},
        ac_dim=A,
        frame_stack=1,
        seq_length=1,
        total_steps=9,
        seed=0,
    )
    algo = BC(
        actor_layer_dims=[13],
        head=Deterministic(l2_weight=1.0, l1_weight=0.0, cos_weight=0.0),
        encoder=encoding(),
        optimizer="adam",
        lr=1e-2,
        lr_schedule=MultiStep(epochs=[], decay_factor=1.0),
        l2_regularization=0.0,
        max_grad_norm=None,
        spec=spec,
        device=torch.device("cpu"),
    )
    loader: Any = DataLoader(windows, batch_size=4)  # type: ignore[arg-type]
    losses = [run_epoch(algo, loader, epoch)["loss"] for epoch in range(1, 30)]
    assert losses[-1] < 0.5 * losses[0]
    assert algo.optimizers["actor"].steps == 3 * 29


def test_validation_leaves_no_trace() -> None:
    def losses(with_validation: bool) -> tuple[list[float], Tensor]:
        torch.manual_seed(5)
        model, found = Foreign(), []
        for epoch in (1, 2, 3):
            found.append(run_epoch(model, batches(), epoch)["Loss"])
            if with_validation:
                steps = model.gradient_steps
                run_epoch(model, batches(3), epoch, validate=True)
                assert model.gradient_steps == steps
                assert not model.net.training
        return found, model.linear.weight.detach().clone()

    plain, validated = losses(False), losses(True)
    assert plain[0] == validated[0]
    assert torch.equal(plain[1], validated[1])


def test_validation_has_no_gradients() -> None:
    class Check(Foreign):
        def train_on_batch(
            self, batch: Any, epoch: int, validate: bool = False
        ) -> dict[str, Tensor]:
            assert validate
            assert not torch.is_grad_enabled()
            return super().train_on_batch(batch, epoch, validate)

    run_epoch(Check(), batches(2), epoch=1, validate=True)
    assert torch.is_grad_enabled()


def test_means_are_weighted_by_batch_size() -> None:
    class Constant(Foreign):
        def log_info(self, info: Mapping[str, Tensor]) -> dict[str, float]:
            rows = 4.0 if len(self.calls) <= 3 else 1.0
            return {"Loss": rows} | ({"Rare": 7.0} if rows == 1.0 else {})

    row = run_epoch(Constant(), [*batches(1, rows=4), *batches(1, rows=1)], epoch=1)
    assert row["Loss"] == pytest.approx((4.0 * 4 + 1.0 * 1) / 5)
    assert row["Rare"] == 7.0


def test_stats_reach_the_algorithm() -> None:
    a, b = Foreign(), Foreign()
    b.net.load_state_dict(a.net.state_dict())
    stats = torch.full((D,), 3.0)
    first = run_epoch(a, batches(2), 1, validate=True)["Loss"]
    second = run_epoch(b, batches(2), 1, validate=True, obs_normalization_stats=stats)["Loss"]
    assert first != second


def test_non_finite_names_epoch_step_and_keys() -> None:
    class Bursting(Foreign):
        def log_info(self, info: Mapping[str, Tensor]) -> dict[str, float]:
            broken = self.gradient_steps >= 3
            return {
                "loss": math.nan if broken else 1.0,
                "l2": math.inf if broken else 1.0,
                "k": 2.0,
            }

    with pytest.raises(NonFiniteError, match=r"epoch 4, training step 3: .*loss.*l2"):
        run_epoch(Bursting(), batches(5), epoch=4)


def test_an_interrupted_epoch_goes_on_bit_for_bit() -> None:
    class Stop(Exception):
        pass

    def first_four() -> Any:
        yield from batches(6)[:4]
        raise Stop

    class Broken:
        def __iter__(self) -> Any:
            return first_four()

        def __len__(self) -> int:
            return 6

    torch.manual_seed(0)
    model = Foreign()
    torch.manual_seed(0)
    whole = run_epoch(Foreign(), batches(6), epoch=1, validate=True)
    progress = EpochProgress()
    with pytest.raises(Stop):
        run_epoch(model, Broken(), epoch=1, validate=True, progress=progress)
    restored = EpochProgress()
    restored.load_state_dict(progress.state_dict())
    assert restored.steps == 4
    rest = run_epoch(model, batches(6)[4:], 1, validate=True, num_steps=6, progress=restored)
    assert rest["Loss"] == whole["Loss"]
