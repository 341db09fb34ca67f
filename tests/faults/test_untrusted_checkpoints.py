"""Checkpoints made to do harm: each is a real file, opened by every door that opens checkpoints."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from rmexp import checkpoint
from rmexp.arguments import run_command
from rmexp.errors import CheckpointError, RmexpError
from rmexp.evaluate import Arguments, evaluate
from rmexp.policy import Policy
from rmexp.tools.import_robomimic import ImportArguments, import_checkpoint
from tests.command_line import GOLDEN, TINY, run_process
from tests.faults.hostile import CANARY, Canary, bounded_memory, canary

__all__ = ["canary"]
pytestmark = pytest.mark.faults

RUN = f"{CANARY}.run"
Content = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    outcome = run_process([*TINY, "dataset.normalize_obs=true", "hydra.run.dir=run"], folder)
    assert outcome.code == 0, outcome.text
    Policy.load(folder / "run" / "checkpoints" / "best.pt")  # torch imports more on first use
    return folder / "run"


def content_of(run: Path) -> Content:
    content = checkpoint.load(run / "checkpoints" / "best.pt")
    return {key: value for key, value in content.items() if key != "format"}


def put(*keys: str, **values: Any) -> Callable[[Content], None]:
    """A change of what lies at `keys`."""

    def change(content: Content) -> None:
        for key in keys:
            content = content[key]
        content.update(values)

    return change


def node(target: Any = RUN, **more: Any) -> dict[Any, Any]:
    return {"_target_": target, **more}


def nested(depth: int) -> Any:
    value: Any = node()
    for _ in range(depth):
        value = {"a": value}
    return value


def laughs(levels: int) -> list[Any]:
    """Few bytes in the file, 10 ** levels values when walked."""
    value: list[Any] = ["ha"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


def cycle(content: Content) -> None:
    content["config"]["algo"]["self"] = content["config"]


def trusting_itself(content: Content) -> None:
    content["config"]["trust"] = [RUN]
    content["config"]["algo"]["head"] = node()


def class_of_another_group(content: Content) -> None:
    content["config"]["algo"]["head"] = content["config"]["dataset"]


ALGO = ("config", "algo")
IN_CONFIG: dict[str, Callable[[Content], None]] = {
    "algorithm": put(*ALGO, **node()),
    "part": put(*ALGO, head=node()),
    "os.system": put(*ALGO, head=node("os.system", command="touch owned")),
    "list item": put(*ALGO, actor_layer_dims=[16, node()]),
    "tuple item": put(*ALGO, encoder=(node(),)),
    "tuple in list": put(*ALGO, actor_layer_dims=[[(1, node())]]),
    "ordered dict": put(*ALGO, head=OrderedDict(node())),
    "nested": put(*ALGO, head=nested(8)),
    "through a module": put(*ALGO, head=node("rmexp.checkpoint.os.system")),
    "through torch": put(*ALGO, head=node("rmexp.algo.bc.torch.hub.load")),
    "our own function": put(*ALGO, head=node("rmexp.atomic.write_atomically")),
    "class of another group": class_of_another_group,
    "callback of the command line": put(*ALGO, head=node("rmexp.sweep.SweepReport")),
    "name with a space": put(*ALGO, head=node("rmexp.nets.heads.Deterministic ")),
    "name in capitals": put(*ALGO, head=node("RMEXP.nets.heads.Deterministic")),
    "list as a name": put(*ALGO, head=node([RUN])),
    "bytes as a name": put(*ALGO, head=node(RUN.encode())),
    "no name": put(*ALGO, head=node(None)),
    "key in capitals": put(*ALGO, head={"_Target_": RUN}),
    "key of bytes": put(*ALGO, head={b"_target_": RUN}),
    "key that is a number": put(*ALGO, head={1: node()}),
    "interpolated name": put(*ALGO, head=node("${name}"), name=RUN),
    "interpolation": put(*ALGO, lr="${oc.env:HOME}"),
    "resolver": put(*ALGO, lr="${rmexp.asset:../../x}"),
    "interpolation in a key": put(*ALGO, **{"${oc.env:HOME}": 1}),
    "positional arguments": put(*ALGO, _args_=[node()]),
    "positional tuple": put(*ALGO, _args_=(node(),)),
    "partial by word": put(*ALGO, _partial_=RUN),
    "convert": put(*ALGO, _convert_="object"),
    "not recursive": put(*ALGO, _recursive_=False),
    "logger": put("config", "logging", evil=node()),
    "data set": put("config", "dataset", **node()),
    "rollout": put("config", "rollout", **node()),
    "loop": put("config", "loop", **node()),
    "top level": put("config", **node()),
    "hydra's own node": put("config", hydra={"callbacks": {"a": node()}}),
    "trusting itself": trusting_itself,
    "cycle": cycle,
    "depth": put(*ALGO, x=nested(150)),
    "laughs": put(*ALGO, x=laughs(9)),
    "tensor as a value": put(*ALGO, lr=torch.zeros(2)),
    "set as a value": put(*ALGO, lr={1.0}),
    "large network": put(*ALGO, actor_layer_dims=[1 << 20, 1 << 20]),
    "many layers": put(*ALGO, actor_layer_dims=[1 << 14] * 99),
    "large spec": put("spec", obs_shapes={"object": (1 << 40,)}),
    "large action": put("spec", ac_dim=1 << 33),
    "negative spec": put("spec", ac_dim=-1),
    "spec of words": put("spec", seed=RUN),
    "spec is a list": put(spec=[1, 2]),
    "threads": put("config", num_threads=10**9),
    "threads by word": put("config", num_threads="all"),
    "device that is none": put("config", device=[RUN]),
    "statistics too long": put(action_stats={k: torch.ones(8) for k in ("offset", "scale")}),
    "statistics of words": put(obs_stats={"object": RUN}),
    "statistics repeated": put(obs_stats={"object": {"offset": torch.ones(1).expand(1 << 40)}}),
    "environment is a list": put(env_args=[RUN]),
    "weights of words": put("algo", nets=RUN),
    "configuration is a list": put(config=[node()]),
}


class Calls:
    """Pickled, it calls `function` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> Any:
        return self._call


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def repacked(content: Content, method: int, **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(content))) as old,
        zipfile.ZipFile(buffer, "w", method) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, data in extra.items():
            new.writestr(name, data)
    return buffer.getvalue()


def lying_about_sizes(content: Content) -> bytes:
    """The central directory declares a terabyte for each entry."""
    data = bytearray(saved(content))
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 20 : place + 28] = (0xFFFFFFF0).to_bytes(4, "little") * 2
        place = data.find(b"PK\x01\x02", place + 4)
    return bytes(data)


def resizing(content: Content) -> bytes:
    """A tensor that is larger than the storage from which it is built."""
    stored = torch.zeros(4).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=stored, dtype=torch.float32, _internal=True)
    build = Calls(_rebuild_tensor_v2, typed, 0, (1 << 29,), (1,), False, OrderedDict())
    return saved({**content, "x": build})


def scripted(content: Content) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


IN_FILE: dict[str, Callable[[Content], bytes]] = {
    "pickle that calls": lambda c: saved({**c, "x": Calls(os.mkdir, "owned")}),
    "pickle that evaluates": lambda c: saved({**c, "x": Calls(eval, "open('owned', 'w')")}),
    "pickle that imports": lambda c: saved({**c, "x": Calls(builtins.__import__, CANARY)}),
    "bare pickle": lambda c: pickle.dumps({"format": 1, "x": Calls(os.mkdir, "owned")}),
    "old format": lambda c: saved(
        {"x": Calls(os.mkdir, "owned")}, _use_new_zipfile_serialization=False
    ),
    "huge bytearray": lambda c: saved({**c, "x": Calls(bytearray, 1 << 42)}),
    "huge empty tensor": lambda c: saved({**c, "x": Calls(torch.Tensor, 1 << 40)}),
    "compressed": lambda c: repacked({**c, "x": torch.zeros(1 << 24)}, zipfile.ZIP_DEFLATED),
    "sizes that lie": lying_about_sizes,
    "sparse tensor": lambda c: saved({**c, "x": torch.zeros(9, 9).to_sparse()}),
    "tensor without data": lambda c: saved({**c, "x": torch.empty(1 << 40, device="meta")}),
    "tensor repeated": lambda c: saved({**c, "x": torch.zeros(1).expand(1 << 20, 1 << 20)}),
    "tensor beyond its storage": resizing,
    "torchscript": scripted,
    "half": lambda c: saved(c)[: len(saved(c)) // 2],
    "no archive": lambda c: b"PK\x03\x04" + bytes(999),
}


def attack(name: str, run: Path, path: Path) -> None:
    content = content_of(run)
    if name in IN_CONFIG:
        IN_CONFIG[name](content)
        checkpoint.save(path, content)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.serialization, "DEFAULT_PROTOCOL", 2)
            path.write_bytes(IN_FILE[name]({"format": checkpoint.FORMAT, **content}))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [*IN_CONFIG, *IN_FILE])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(
    name: str,
    run: Path,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(canary.folder)
    path = canary.folder / "hostile.pt"
    attack(name, run, path)
    began = time.process_time()
    with bounded_memory(), pytest.raises(CheckpointError) as error:
        Policy.load(path)
    assert time.process_time() - began < 1.0
    assert str(path) in str(error.value)
    with bounded_memory():
        code = run_command(Arguments, evaluate, prog="evaluate", argv=[f"checkpoint={path}"])
    assert code == 1
    assert capsys.readouterr().err.startswith(f"error: {path}")
    assert not canary.sang
    assert {p.name for p in canary.folder.iterdir()} == {"hostile.pt", f"{CANARY}.py"}


def test_how_many_attacks_there_are() -> None:
    assert (len(IN_CONFIG), len(IN_FILE)) == (58, 16)


def test_names_in_an_archive_are_not_paths(
    run: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(canary.folder)
    path = canary.folder / "a.pt"
    names = {"../../owned": b"x", "/tmp/rmexp_owned": b"x", f"../{CANARY}.py": b"x"}
    path.write_bytes(repacked(content_of(run) | {"format": 1}, zipfile.ZIP_STORED, **names))
    before = sorted(canary.folder.parent.rglob("*"))
    with suppress(CheckpointError):  # whether it is opened is all the same
        Policy.load(path)
    assert sorted(canary.folder.parent.rglob("*")) == before
    assert not Path("/tmp/rmexp_owned").exists()


def test_trust_opens_by_name_and_only_by_that_name(run: Path, canary: Canary) -> None:
    content, path = content_of(run), canary.folder / "own.pt"
    content["config"]["algo"]["head"]["_target_"] = f"{CANARY}.head"
    checkpoint.save(path, content)
    for trust in ([], [CANARY], [RUN], [f"{CANARY}.*"], ["*"]):
        with pytest.raises(CheckpointError, match=rf"trust=\[{CANARY}\.head\]"):
            Policy.load(path, trust=trust)
    assert not canary.sang
    assert Policy.load(path, trust=[f"{CANARY}.head"]).algo.spec.ac_dim == 7
    assert canary.sang


def foreign() -> Content:
    return torch.load(GOLDEN / "robomimic_v03_td3_bc.pth", weights_only=True)


def changed(**values: Any) -> Callable[[], bytes]:
    return lambda: saved({**foreign(), **values})


def in_json(old: str, new: str) -> Callable[[], bytes]:
    def make() -> bytes:
        content = foreign()
        assert old in content["config"]
        return saved({**content, "config": content["config"].replace(old, new)})

    return make


FOREIGN: dict[str, Callable[[], bytes]] = {
    "pickle that calls": changed(x=Calls(os.mkdir, "owned")),
    "pickle that imports": changed(x=Calls(builtins.__import__, CANARY)),
    "bare pickle": lambda: pickle.dumps({"model": Calls(os.mkdir, "owned")}),
    "old format": lambda: saved(foreign(), _use_new_zipfile_serialization=False),
    "huge bytearray": changed(x=Calls(bytearray, 1 << 42)),
    "compressed": lambda: repacked({"model": torch.zeros(1 << 24)}, zipfile.ZIP_DEFLATED),
    "sizes that lie": lambda: lying_about_sizes(foreign()),
    "tensor repeated": changed(x=torch.zeros(1).expand(1 << 20, 1 << 20)),
    "tensor beyond its storage": lambda: resizing(foreign()),
    "model of words": changed(model="model"),
    "model of too few weights": changed(model={}),
    "model of wrong sizes": lambda: saved(
        foreign() | {"model": {k: v[..., :1] for k, v in foreign()["model"].items()}}
    ),
    "configuration is no text": changed(config=3),
    "configuration is no JSON": changed(config="{"),
    "configuration is deep": changed(config="[" * 100_000),
    "configuration is a list": changed(config="[]"),
    "algorithm by another name": changed(algo_name="os.system"),
    "large network": in_json('"layer_dims": [', '"layer_dims": [1048576, 1048576, '),
    "shapes of words": changed(shape_metadata={"ac_dim": "x", "all_shapes": {}}),
    "large action": lambda: saved(
        foreign() | {"shape_metadata": foreign()["shape_metadata"] | {"ac_dim": 1 << 33}}
    ),
    "environment is code": changed(env_metadata=Calls(os.mkdir, "owned")),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FOREIGN)
def test_a_hostile_checkpoint_of_robomimic_is_refused(
    name: str, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(canary.folder)
    (canary.folder / "hostile.pth").write_bytes(FOREIGN[name]())
    with bounded_memory(), pytest.raises(RmexpError):
        import_checkpoint(ImportArguments(model="hostile.pth", out="imported.pt"))
    assert not canary.sang
    assert {p.name for p in canary.folder.iterdir()} == {"hostile.pth", f"{CANARY}.py"}
