"""Demonstrations as HDF5: the only file of the package that imports h5py to read.

Files come from anywhere, so nothing is believed: lengths are those of the arrays, every link is
followed by hand (never out of the file), and an array's declared size is checked before a byte of
it is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import h5py.h5a as h5a
import h5py.h5d as h5d
import h5py.h5g as h5g
import h5py.h5i as h5i
import h5py.h5l as h5l
import h5py.h5o as h5o
import h5py.h5s as h5s
import h5py.h5t as h5t
import numpy as np

from rmexp.data.arrays import ArraySpec, natural_order
from rmexp.data.env_args import parse_env_args
from rmexp.data.layouts import describe_unusable, not_a_file
from rmexp.data.storage import (
    declaration_fault,
    dtype_of,
    heap_fault,
    opened,
    read,
    refuse_damaged_chunks,
)
from rmexp.errors import DatasetError

MAX_SOFT_LINKS = 8

# The low-level handles: a file has thousands of arrays, and these open several times faster.
Group = h5g.GroupID
Array = h5d.DatasetID
Node = Any  # either of the two, which have no type stubs


class DemoFile:
    """One file of the robomimic layout, open for reading; use as a context manager."""

    def __init__(self, path: str, *, source: str | None = None) -> None:
        self.path = Path(path).expanduser()
        self.warnings: list[str] = []
        if not self.path.is_file():
            raise DatasetError(not_a_file(self.path, source))
        self.size = self.path.stat().st_size
        self._heap_is_sound = False
        self._specs: dict[tuple[str, str], ArraySpec | None] = {}
        self._subgroups: dict[tuple[str, str], Node] = {}
        self._file = opened(self.path)
        try:
            with self._reading("the file"):
                self._scan()
        except DatasetError:
            self._file.close()
            raise

    def _scan(self) -> None:
        self._root = h5g.open(self._file.id, b"/")
        self._data = self._data_group()
        self._groups = {
            name: node for name, node in self._children(self._data) if isinstance(node, Group)
        }
        self.lengths = self._action_lengths()
        # A group without actions is a broken demo or, by its name, something else.
        demos = [name for name in self._groups if name in self.lengths or "demo" in name.lower()]
        self.demos = tuple(sorted(demos, key=natural_order))
        self.env_args = self._env_args()
        self.masks = self._masks()

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def spec(self, demo: str, key: str) -> ArraySpec | None:
        """The declaration of `key` ("actions", "obs/object") in `demo`, None where it is absent."""
        if (demo, key) not in self._specs:
            with self._reading(f"{demo}/{key}"):
                node = self._node(demo, key)
                spec = None if node is None else self._checked(node, f"{demo}/{key}")
                self._specs[demo, key] = spec
        return self._specs[demo, key]

    def specs(self, demo: str, group: str) -> dict[str, ArraySpec]:
        """All arrays below `group` of `demo`; nested groups are joined with "/"."""
        with self._reading(f"{demo}/{group}"):
            node = self._node(demo, group)
            if not isinstance(node, Group):
                return {}
            return dict(sorted(self._arrays_below(node, f"{demo}/{group}", "", set())))

    def read(self, demo: str, key: str) -> np.ndarray:
        spec = self.spec(demo, key)
        assert spec is not None, f"{demo}/{key} was not looked for"
        with self._reading(f"{demo}/{key}"):
            return read(self._node(demo, key), spec)

    def byte_offset(self, demo: str, key: str) -> int | None:
        """Where the bytes of `key` start in the file, None unless they lie in one plain piece."""
        with self._reading(f"{demo}/{key}"):
            node = self._node(demo, key)
            if not isinstance(node, Array):
                return None
            plain = node.get_create_plist().get_layout() == h5d.CONTIGUOUS
            return node.get_offset() if plain else None

    def _node(self, demo: str, key: str) -> Node:
        """Group or array `key` of `demo`, None where it is absent; groups of arrays stay open."""
        group, _, rest = key.partition("/")
        if not rest:
            return self._walk(self._groups[demo], key)
        if (demo, group) not in self._subgroups:
            self._subgroups[demo, group] = self._walk(self._groups[demo], group)
        return self._walk(self._subgroups[demo, group], rest)

    @contextmanager
    def _reading(self, what: str) -> Generator[None]:
        try:
            yield
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
            raise DatasetError(
                f"{self.path}: {what} cannot be read ({error}); the file is damaged, fetch or "
                "write it again"
            ) from error

    def _data_group(self) -> Node:
        node = self._walk(self._root, "data")
        if node is None or not isinstance(node, Group):
            raise DatasetError(describe_unusable(self.path, self._names(self._root)))
        return node

    def _action_lengths(self) -> dict[str, int]:
        """Length of every demo that has actions, by the array itself."""
        lengths: dict[str, int] = {}
        wrong: list[str] = []
        for demo in sorted(self._groups, key=natural_order):
            spec = self.spec(demo, "actions")
            if spec is None:
                continue
            lengths[demo] = spec.shape[0] if spec.shape else 0
            declared = _as_int(self._attribute(self._groups[demo], "num_samples"))
            if declared is not None and declared != lengths[demo]:
                wrong.append(f"{demo} says num_samples={declared} and has {lengths[demo]} actions")
        if not lengths:
            inside = self._names(next(iter(self._groups.values()))) if self._groups else {}
            raise DatasetError(describe_unusable(self.path, self._names(self._root), inside))
        if wrong:
            more = f" (and {len(wrong) - 1} more demos)" if len(wrong) > 1 else ""
            self.warnings.append(f"{self.path}: {wrong[0]}{more}; the arrays are believed")
        total, found = _as_int(self._attribute(self._data, "total")), sum(lengths.values())
        if total is not None and total != found:
            self.warnings.append(
                f"{self.path}: total={total} is declared and {found} frames are there; "
                "the arrays are believed"
            )
        return lengths

    def _env_args(self) -> dict[str, Any] | None:
        raw = self._attribute(self._data, "env_args")
        parsed, warning = parse_env_args(raw, _as_int(self._attribute(self._data, "type")))
        if warning is not None:
            self.warnings.append(f"{self.path}: {warning}")
        return parsed

    def _masks(self) -> dict[str, tuple[str, ...]]:
        """Filter key -> demo names, as listed."""
        group = self._walk(self._root, "mask")
        if group is None or not isinstance(group, Group):
            return {}
        masks: dict[str, tuple[str, ...]] = {}
        for name, node in self._children(group):
            if not isinstance(node, Array):
                continue
            values = self._names_in(node, f"mask/{name}")
            masks[name] = tuple(
                value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                for value in values
            )
        return masks

    def _names_in(self, node: Node, where: str) -> list[Any]:
        """The demos that a mask lists."""
        spec = self._checked(node, where)
        if math.prod(spec.shape) > len(self._groups):
            self._refuse(where, f"lists {spec.shape} demos, and the file has {len(self._groups)}")
        kind = node.get_type()
        if not isinstance(kind, (h5t.TypeStringID, h5t.TypeIntegerID)):
            self._refuse(where, f"is of type {spec.dtype}; a mask lists the names of demos")
        self._refuse_damaged_heap(kind)
        refuse_damaged_chunks(node, spec)
        return np.asarray(h5py.Dataset(node)[()]).ravel().tolist()

    def _attribute(self, group: Node, name: str) -> Any:
        """A number or text, empty bytes in place of anything else, None where it is absent."""
        if not h5a.exists(group, name.encode()):
            return None
        attribute = h5a.open(group, name.encode())
        kind = attribute.get_type()
        if (
            not isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeStringID))
            or attribute.get_space().get_simple_extent_npoints() != 1
            or kind.get_size() > self.size
        ):
            return b""
        self._refuse_damaged_heap(kind)
        value = h5py.Group(group).attrs[name]
        return value.item() if isinstance(value, np.ndarray) else value

    def _refuse_damaged_heap(self, kind: Any) -> None:
        """Texts of variable length lie in heaps of the file."""
        if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
            if not self._heap_is_sound:
                self._refuse("the file", heap_fault(self.path))
            self._heap_is_sound = True

    def _refuse(self, where: str, fault: str | None) -> None:
        if fault is not None:
            raise DatasetError(f"{self.path}: {where} {fault}")

    def _arrays_below(
        self, group: Node, where: str, prefix: str, seen: set[int]
    ) -> Iterator[tuple[str, ArraySpec]]:
        address = h5o.get_info(group).addr
        if address in seen:
            raise DatasetError(f"{self.path}: {where} is linked more than once; copy the data in")
        seen.add(address)
        for name, node in self._children(group):
            if isinstance(node, Array):
                yield prefix + name, self._checked(node, f"{where}/{name}")
            else:
                yield from self._arrays_below(node, f"{where}/{name}", f"{prefix}{name}/", seen)

    def _children(self, group: Node) -> Iterator[tuple[str, Node]]:
        for encoded in group:
            name = encoded.decode("utf-8", "surrogateescape")
            node = self._step(group, name, MAX_SOFT_LINKS)
            if node is not None:
                yield name, node

    def _names(self, group: Node) -> dict[str, bool]:
        """Names in `group` -> whether each is a group, for messages."""
        return {name: isinstance(node, Group) for name, node in self._children(group)}

    def _walk(self, start: Node, key: str, hops: int = MAX_SOFT_LINKS) -> Node:
        node: Node = start
        for part in key.split("/"):
            if not isinstance(node, Group):
                return None
            if part not in ("", "."):
                node = self._step(node, part, hops)
        return node

    def _step(self, group: Node, name: str, hops: int) -> Node:
        """One link; soft links are followed a few times and only inside this file."""
        encoded = name.encode("utf-8", "surrogateescape")
        if not group.links.exists(encoded):
            return None
        kind = group.links.get_info(encoded).type
        if kind == h5l.TYPE_HARD:
            node = h5o.open(group, encoded)
            return node if isinstance(node, Group | Array) else None
        where = f"{self.path}: {_name_of(group)}/{name}"
        if kind != h5l.TYPE_SOFT:
            raise DatasetError(
                f"{where} is a link into another file, which is not followed; copy the data in"
            )
        if hops == 0:
            raise DatasetError(f"{where} is a loop of links; the file cannot be used")
        target = group.links.get_val(encoded).decode("utf-8", "surrogateescape")
        return self._walk(self._root if target.startswith("/") else group, target, hops - 1)

    def _checked(self, node: Node, where: str) -> ArraySpec:
        """The declaration of an array that may safely be read."""
        if not isinstance(node, Array):
            raise DatasetError(f"{self.path}: {where} is a group where an array is expected")
        space = node.get_space()
        if space.get_simple_extent_type() == h5s.NULL:
            raise DatasetError(f"{self.path}: {where} is an empty array without a shape")
        spec = ArraySpec(tuple(space.get_simple_extent_dims()), dtype_of(node))
        self._refuse(where, declaration_fault(node, spec))
        return spec


def _name_of(group: Node) -> str:
    return (h5i.get_name(group) or b"").decode("utf-8", "replace").rstrip("/")


def _as_int(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
