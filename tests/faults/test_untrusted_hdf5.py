"""Demonstration files made to do harm: a clear DatasetError within a second, in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.data.demo_files import demo_writer
from tests.faults.hdf5_fuzzing import Worker

pytestmark = pytest.mark.faults

SECONDS = 1.0
MEGABYTES = 200  # resident, of which an array of 64 MB that may be sparse is a part
OUTSIDE = "/etc/passwd"
DEMO = "data/demo_1"
Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def worker() -> Generator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def instead(file: Any, key: str, **options: Any) -> Any:
    """A new array in the place of another."""
    if key in file:
        del file[key]
    return file.create_dataset(key, **options)


def linked(key: str, link: Any) -> Change:
    def change(file: Any) -> None:
        if key in file:
            del file[key]
        file[key] = link

    return change


def link_loop(file: Any) -> None:
    del file[f"{DEMO}/obs/pos"]
    names = ["pos", *(f"l{i}" for i in range(50))]
    for name, after in zip(names, [*names[1:], "pos"], strict=True):
        file[f"{DEMO}/obs/{name}"] = h5py.SoftLink(f"/{DEMO}/obs/{after}")


def link_chain(file: Any) -> None:
    """Each of 30 soft links runs twice through the one before it."""
    file["l0"] = file[DEMO]
    for i in range(30):
        file[f"l{i + 1}"] = h5py.SoftLink(f"/l{i}/../l{i}")
    linked(f"{DEMO}/obs/pos", h5py.SoftLink("/l30/actions"))(file)


def user_defined_link(file: Any) -> None:
    """Of a kind that nobody has registered: an external link whose number was changed."""
    linked(f"{DEMO}/obs/pos", h5py.ExternalLink("userlink", "userlink"))(file)


def shaped(shape: tuple[int, ...], **options: Any) -> Change:
    def change(file: Any) -> None:
        for demo in ("demo_0", "demo_1", "demo_2"):
            chunk = tuple(min(n, 1024) for n in shape)
            instead(file, f"data/{demo}/actions", shape=shape, dtype="f8", chunks=chunk, **options)

    return change


def contiguous(file: Any) -> None:
    """2^60 rows that are declared in one piece and never written."""
    space = h5py.h5s.create_simple((1 << 60, 1))
    parent = file[DEMO].id
    h5py.h5g.GroupID.unlink(parent, b"actions")
    h5py.h5d.create(parent, b"actions", h5py.h5t.IEEE_F64LE, space)


def bomb(file: Any) -> None:
    """A chunk that unpacks to a gigabyte, where a few numbers are declared."""
    array = instead(
        file, f"{DEMO}/obs/pos", shape=(3, 2), dtype="f8", chunks=(3, 2), compression="gzip"
    )
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    array.id.write_direct_chunk((0, 0), packed)


def declared_bomb(file: Any) -> None:
    """Declared as large as it is: 50 GB of zeros in one small chunk after another."""
    array = instead(
        file,
        f"{DEMO}/obs/pos",
        shape=(3, 1 << 31),
        dtype="f8",
        chunks=(3, 1 << 20),
        compression="gzip",
    )
    packed = zlib.compress(bytes(24 << 20), 9)
    for i in range(40):
        array.id.write_direct_chunk((0, i << 20), packed)


def chunk_of(content: bytes, mask: int = 0, **options: Any) -> Change:
    def change(file: Any) -> None:
        for demo in file["data"].values():
            shape = (len(demo["actions"]), 1 << 18)
            array = instead(demo, "obs/pos", shape=shape, dtype="u1", chunks=shape, **options)
            array.id.write_direct_chunk((0, 0), content, filter_mask=mask)

    return change


def unknown_filter(file: Any) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3, 2))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1, 2))  # zstandard, in a plugin
    del file[f"{DEMO}/obs/pos"]
    space = h5py.h5s.create_simple((3, 2))
    array = h5py.h5d.create(file[f"{DEMO}/obs"].id, b"pos", h5py.h5t.IEEE_F64LE, space, dcpl=plist)
    array.write_direct_chunk((0, 0), bytes(48), filter_mask=1)


def external_storage(file: Any) -> None:
    external = [(OUTSIDE, 0, h5py.h5f.UNLIMITED)]
    instead(file, f"{DEMO}/actions", shape=(3, 3), dtype="f8", external=external)


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3, 3), "f8")
    layout[:] = h5py.VirtualSource(OUTSIDE, "data", (3, 3))
    del file[f"{DEMO}/actions"]
    file.create_virtual_dataset(f"{DEMO}/actions", layout)


def deep(file: Any) -> None:
    group = file["data/demo_0/obs"]
    for _ in range(3000):
        group = group.create_group("g")


def ring(file: Any) -> None:
    file["data/demo_0/obs/ring"] = file["data/demo_0"]


def typed(dtype: Any, data: Any = None) -> Change:
    def change(file: Any) -> None:
        array = instead(file, f"{DEMO}/actions", shape=(3, 3), dtype=dtype)
        if data is not None:
            array[...] = data

    return change


def references(file: Any) -> None:
    array = instead(file, f"{DEMO}/actions", shape=(3, 3), dtype=h5py.ref_dtype)
    array[...] = file[DEMO].ref


def region_references(file: Any) -> None:
    source = file[f"{DEMO}/rewards"]
    array = instead(file, f"{DEMO}/actions", shape=(3, 3), dtype=h5py.regionref_dtype)
    array[0, 0] = source.regionref[:2]


def mask_of_references(file: Any) -> None:
    instead(file, "mask/train", shape=(2,), dtype=h5py.ref_dtype)[...] = file[DEMO].ref


def mask_bomb(file: Any) -> None:
    """Four million times the same long text."""
    array = instead(
        file, "mask/train", shape=(1 << 22,), dtype=h5py.string_dtype(), compression="gzip"
    )
    array[:8] = "x" * 60_000


def mask_huge(file: Any) -> None:
    instead(file, "mask/train", shape=(1 << 60,), dtype="S8", chunks=(1 << 16,))


def attribute(name: str, value: Any) -> Change:
    return lambda file: file["data"].attrs.__setitem__(name, value)


def huge_attribute(file: Any) -> None:
    """Of 2^40 numbers, declared and not written."""
    space = h5py.h5s.create_simple((1 << 12,))
    h5py.h5a.create(file["data"].id, b"total", h5py.h5t.NATIVE_INT64, space)


def sequences(file: Any) -> None:
    value = np.empty(1, object)
    value[0] = np.arange(9)
    file["data"].attrs.create("env_args", value, dtype=h5py.vlen_dtype(np.int64))


REFUSED: dict[str, tuple[Change, str]] = {
    "external link": (linked(f"{DEMO}/actions", h5py.ExternalLink(OUTSIDE, "/")), "another file"),
    "external link to itself": (linked("data", h5py.ExternalLink(".", "/data")), "another file"),
    "external link of a demo": (linked(DEMO, h5py.ExternalLink(OUTSIDE, "/")), "another file"),
    "external link of a mask": (linked("mask", h5py.ExternalLink(OUTSIDE, "/")), "another file"),
    "link to itself": (linked("data", h5py.SoftLink("/data")), "loop of links"),
    "link loop": (link_loop, "loop of links"),
    "link chain": (link_chain, "loop of links"),
    "user-defined link": (user_defined_link, "another file"),
    "ring of groups": (ring, "more than once"),
    "2^60 rows": (shaped((1 << 60, 1)), "declares shape"),
    "2^60 columns": (shaped((5, 1 << 60)), "declares shape"),
    "2^60 rows packed": (shaped((1 << 60, 1), compression="gzip"), "declares shape"),
    "2^60 rows in one piece": (contiguous, "declares shape"),
    "2^62 numbers in many axes": (shaped((2,) * 30 + (1 << 30,)), "actions"),
    "compressed bomb": (bomb, "the chunk at (0, 0) is damaged"),
    "declared bomb": (declared_bomb, "declares shape"),
    "short chunk": (chunk_of(zlib.compress(b"ab"), compression="gzip"), "is damaged"),
    "chunk that skips its filter": (chunk_of(b"xx", 1, compression="gzip"), "is damaged"),
    "short chunk, shuffled": (chunk_of(b"x" * 99, shuffle=True), "is damaged"),
    "chunk without its checksum": (chunk_of(b"xxx", fletcher32=True), "is damaged"),
    "short chunk of lzf": (chunk_of(b"\x01ab", compression="lzf"), "is damaged"),
    "short plain chunk": (chunk_of(b"xx"), "is damaged"),
    "unknown filter": (unknown_filter, "is packed with filter 32015"),
    "external storage": (external_storage, "in another file"),
    "virtual": (virtual, "in another file"),
    "references": (references, "actions"),
    "region references": (region_references, "actions"),
    "texts as numbers": (typed(h5py.string_dtype(), "1.0"), "actions"),
    "sequences as numbers": (typed(h5py.vlen_dtype(np.float64)), "actions"),
    "compound": (typed(np.dtype([("a", "f8"), ("b", "S9")])), "actions"),
    "opaque": (typed(np.dtype("V16")), "actions"),
    "mask of references": (mask_of_references, "mask/train is of type"),
    "mask of four million texts": (mask_bomb, "lists (4194304,) demos"),
    "mask of 2^60": (mask_huge, "mask/train declares shape"),
    "deep groups": (deep, "demo_0/obs"),
}

LIVED_WITH: dict[str, Change] = {
    "env_args of numbers": attribute("env_args", np.zeros((1000, 8))),
    "env_args of sequences": sequences,
    "env_args empty": attribute("env_args", h5py.Empty("f8")),
    "env_args deep": attribute("env_args", "[" * 60_000),
    "env_args long": attribute("env_args", "x" * 60_000),
    "total of thousands": huge_attribute,
    "total a text": attribute("total", "9" * 30_000),
    "total infinite": attribute("total", float("inf")),
    "type a reference": lambda file: file["data"].attrs.__setitem__("type", file["data"].ref),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused(name: str, worker: Worker, tmp_path: Path) -> None:
    change, said = REFUSED[name]
    path = demo_writer(tmp_path)(masks={"train": [0, 1], "valid": [2]})
    with h5py.File(path, "r+") as file:
        change(file)
    found = worker.open(path)
    assert found.ended == "refused", found
    assert said in found.said
    assert str(path) in found.said
    assert found.seconds < SECONDS
    assert found.bytes < MEGABYTES << 20


@pytest.mark.parametrize("name", LIVED_WITH)
def test_metadata_of_any_kind_cost_no_more_than_a_warning(
    name: str, worker: Worker, tmp_path: Path
) -> None:
    path = demo_writer(tmp_path)()
    with h5py.File(path, "r+") as file:
        LIVED_WITH[name](file)
    found = worker.open(path)
    assert (found.ended, found.said) == ("loaded", "")
    assert found.seconds < SECONDS
    assert found.bytes < MEGABYTES << 20


def zeros(content: bytearray, place: int) -> None:
    content[place + 16 : place + 32] = bytes(16)


def overflowing(content: bytearray, place: int) -> None:
    content[place + 16 : place + 32] = b"\x01" + bytes(7) + b"\xf0" + b"\xff" * 7


@pytest.mark.parametrize("damage", [zeros, overflowing])
def test_a_heap_without_an_end_is_refused_before_libhdf5_walks_it(
    damage: Callable[[bytearray, int], None], worker: Worker, tmp_path: Path
) -> None:
    """libhdf5 2.0 never returns from reading the attribute."""
    path = demo_writer(tmp_path)()
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = '{"env_name": "Lift", "type": 1}'
    content = bytearray(path.read_bytes())
    damage(content, content.index(b"GCOL"))
    path.write_bytes(content)
    found = worker.open(path)
    assert (found.ended, found.seconds < SECONDS) == ("refused", True)
    assert "has a damaged heap of texts" in found.said
