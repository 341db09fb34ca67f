"""Damaged and altered demonstration files, each a function of its number."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Literal

import h5py
import numpy as np

from tests.command_line import GOLDEN

BASES = ("golden", "packed", "latest")
KINDS = ("flip", "flip", "burst", "zeros", "splice", "truncate", "structure", "structure")


@cache
def base(name: str) -> bytes:
    """The golden file, or one with chunks, compression, images and strings of variable length."""
    if name == "golden":
        return (GOLDEN / "tiny_lift.hdf5").read_bytes()
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    libver: Literal["latest", "earliest"] = "latest" if name == "latest" else "earliest"
    with h5py.File(buffer, "w", libver=libver) as file:
        file.create_group("data").attrs["env_args"] = '{"env_name": "Lift", "type": 1}'
        for i, length in enumerate((5, 3, 7)):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = "<mujoco/>" * 20
            demo["actions"] = rng.uniform(-1, 1, (length, 3))
            demo["rewards"] = rng.random(length)
            demo["dones"] = np.arange(length) == length - 1
            options: dict[str, Any] = {"compression": "gzip", "chunks": (2, 4), "shuffle": True}
            for group in ("obs", "next_obs"):
                data = rng.normal(size=(length, 4))
                demo.create_dataset(f"{group}/object", data=data, **options, fletcher32=True)
                demo[f"{group}/pos"] = rng.normal(size=(length, 2)).astype("f4")
                image = rng.integers(0, 255, (length, 4, 5, 3), dtype=np.uint8)
                demo.create_dataset(
                    f"{group}/cam", data=image, chunks=(1, 4, 5, 3), compression="gzip"
                )
        file.create_dataset("mask/train", data=["demo_0", "demo_2"], dtype=h5py.string_dtype())
        file.create_dataset("mask/valid", data=["demo_1"], dtype=h5py.string_dtype())
    return buffer.getvalue()


def mutant(number: int) -> tuple[str, bytes]:
    """What was done, and the file."""
    draw = random.Random(number)
    name, kind = draw.choice(BASES), draw.choice(KINDS)
    data = bytearray(base(name))
    if kind == "flip":
        for _ in range(draw.choice((1, 1, 2, 5, 20))):
            data[_metadata_place(draw, data)] ^= 1 << draw.randrange(8)
    elif kind == "burst":
        place = _metadata_place(draw, data)
        data[place : place + 8] = draw.choice(
            (draw.randbytes(8), b"\xff" * 8, b"\0" * 7 + b"\x40", b"\x08" + b"\0" * 7)
        )
    elif kind == "zeros":
        place = _metadata_place(draw, data)
        size = min(draw.choice((16, 64, 512)), len(data) - place)
        data[place : place + size] = bytes(size)
    elif kind == "splice":
        source, target = _metadata_place(draw, data), _metadata_place(draw, data)
        size = min(draw.choice((8, 24, 96, 512)), len(data) - max(source, target))
        data[target : target + size] = data[source : source + size]
    elif kind == "truncate":
        del data[draw.randrange(len(data)) :]
        data += bytes(draw.choice((0, 0, 2048)))
    else:
        return f"{name} {kind}", _restructured(bytes(data), draw)
    return f"{name} {kind}", bytes(data)


def _metadata_place(draw: random.Random, data: bytearray) -> int:
    """Mostly in the file's own structures, which are numbers among zeros."""
    for _ in range(8):
        place = draw.randrange(len(data))
        near = data[max(0, place - 4) : place + 4]
        if near.count(0) in range(2, 7):
            return place
    return draw.randrange(len(data))


def _restructured(data: bytes, draw: random.Random) -> bytes:
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        for _ in range(draw.choice((1, 1, 2, 4))):
            with suppress(KeyError):  # what an earlier change took away
                draw.choice(CHANGES)(file, draw)
    return buffer.getvalue()


def _any_path(file: Any, draw: random.Random, kind: type | None = None) -> str:
    found: list[str] = []
    file.visititems(
        lambda name, node: found.append(name) if kind is None or isinstance(node, kind) else None
    )
    return draw.choice(found) if found else "data"


def _replace(file: h5py.File, path: str, data: Any, **options: Any) -> None:
    if path in file:
        del file[path]
    file.create_dataset(path, data=data, **options)


def _change_dtype(file: Any, draw: random.Random) -> None:
    path = _any_path(file, draw, h5py.Dataset)
    old = file[path]
    if isinstance(old, h5py.Dataset) and old.dtype.kind in "fiub":
        kinds = ("f2", ">f4", "f8", "i1", ">i8", "u8", "?", "S3", "c8", "f4", "V3")
        new = np.zeros(old.shape, "V3") if (k := draw.choice(kinds)) == "V3" else old[()].astype(k)
        _replace(file, path, new)


def _change_shape(file: Any, draw: random.Random) -> None:
    path = _any_path(file, draw, h5py.Dataset)
    shapes = (
        (),
        (0,),
        (0, 7),
        (1,),
        (3,),
        (5, 4),
        (5, 1),
        (5, 0),
        (2, 2, 2),
        (5, 4, 5, 3),
        (1000, 3),
    )
    shape = draw.choice(shapes)
    _replace(file, path, np.full(shape, 0.25, draw.choice(("f4", "u1"))))


def _change_length(file: Any, draw: random.Random) -> None:
    path = _any_path(file, draw, h5py.Dataset)
    array = np.asarray(file[path])
    if array.ndim:
        changed = array[: draw.randrange(len(array) + 1)]
        _replace(file, path, np.concatenate([array, changed]) if draw.random() < 0.4 else changed)


def _remove(file: Any, draw: random.Random) -> None:
    del file[_any_path(file, draw)]


def _add(file: Any, draw: random.Random) -> None:
    parent = _any_path(file, draw, h5py.Group)
    name = draw.choice(("actions", "obs", "extra", "demo_9", "demo9", "mask", "a b", "\u00e9", "0"))
    if isinstance(file.get(parent), h5py.Group) and name not in file[parent]:
        if draw.random() < 0.4:
            file[parent].create_group(name)
        else:
            file[parent][name] = draw.choice((1.0, "text", np.zeros((5, 3)), np.zeros(0)))


def _move(file: Any, draw: random.Random) -> None:
    source = _any_path(file, draw)
    target = _any_path(file, draw, h5py.Group) + "/moved"
    if source in file and target not in file and not target.startswith(source):
        file.move(source, target)


def _link(file: Any, draw: random.Random) -> None:
    place, target = _any_path(file, draw), "/" + _any_path(file, draw)
    if place in file:
        del file[place]
        links = (h5py.SoftLink(target), h5py.SoftLink("."), h5py.ExternalLink("x.hdf5", target))
        file[place] = draw.choice(links)


def _share(file: Any, draw: random.Random) -> None:
    source, target = _any_path(file, draw), _any_path(file, draw, h5py.Group) + "/shared"
    if source in file and target not in file:
        file[target] = file[source]


def _set_attribute(file: Any, draw: random.Random) -> None:
    node = (
        file[_any_path(file, draw) if draw.random() < 0.5 else "data"] if "data" in file else file
    )
    name = draw.choice(("env_args", "total", "num_samples", "type", "other"))
    values = ("{}", "[", b"\xff\xfe", 3, -1, 2**63, 1.5, float("nan"), [1, 2], "", np.zeros((3, 3)))
    node.attrs[name] = draw.choice((*values, h5py.Empty("f4"), np.array(["x", "y"], object), True))


def _set_values(file: Any, draw: random.Random) -> None:
    node = file[_any_path(file, draw, h5py.Dataset)]
    if isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and node.size:
        values = node[()]
        flat = values.reshape(-1)
        flat[draw.randrange(flat.size)] = draw.choice((np.nan, np.inf, 1e300, -2.0, 1.0))
        node[()] = values


CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (
    _change_dtype,
    _change_shape,
    _change_length,
    _remove,
    _add,
    _move,
    _link,
    _share,
    _set_attribute,
    _set_attribute,
    _set_values,
)
