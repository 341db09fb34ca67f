"""What lies in the file behind an array or a text, checked before libhdf5 unpacks it.

libhdf5 (2.0 at the time of writing) believes its input in places: it reads past the end of a chunk
that unpacks to less than it declares, and walks a damaged heap of texts without end. Both end the
process without a word, so both are looked for here.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import h5py.h5d as h5d
import h5py.h5s as h5s
import h5py.h5t as h5t
import h5py.h5z as h5z
import numpy as np

from rmexp.data.arrays import ArraySpec
from rmexp.errors import DatasetError

LZF = 32000
CHECKSUM_BYTES = 4  # what fletcher32 adds to a chunk
DEFLATE, SHUFFLE, FLETCHER32 = h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32
READABLE = {DEFLATE: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}

HEAP = b"GCOL\x01\0\0\0"
HEAP_HEADER = 16  # bytes before the first object of a heap, and before each object's content
WHOLE_BYTES = 2 << 30  # of larger files, heaps are looked for in the first and the last half of it
BLOCK = 4 << 20


def opened(path: Path) -> h5py.File:
    """The file, for reading; raises DatasetError that says why not."""
    try:
        return h5py.File(path, "r", locking="best-effort")
    except PermissionError as error:
        raise DatasetError(f"{path}: no permission to read this file") from error
    except (OSError, RuntimeError) as error:
        text = str(error)
        if "truncated" in text:
            reason = "is truncated (a download or copy that did not end); fetch it again"
        elif "signature not found" in text:
            reason = "is not an HDF5 file; give a file in the robomimic layout"
        else:
            reason = f"cannot be opened as HDF5 ({text})"
        raise DatasetError(f"{path}: {reason}") from error


def dtype_of(node: Any) -> np.dtype[Any]:
    try:
        return node.dtype
    except TypeError:  # a type that numpy has not, so nothing to learn from
        return np.dtype("V1")


def declaration_fault(node: Any, spec: ArraySpec) -> str | None:
    """Why `node`, an array, must not be read, as far as its declaration tells."""
    plist = node.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL or plist.get_external_count() > 0:
        return "keeps its data in another file, which is not followed; copy the data in"
    unreadable = [number for number in _filters(plist) if number not in READABLE]
    if unreadable:
        return (
            f"is packed with filter {unreadable[0]}; those that are read are "
            f"{', '.join(sorted(READABLE.values()))}. Write it again with one of them"
        )
    chunk = plist.get_chunk() if layout == h5d.CHUNKED else None
    return spec.too_costly(node.get_storage_size(), chunk)


def read(node: Any, spec: ArraySpec) -> np.ndarray:
    """All of an array in whose declaration there is no fault.

    Raises ValueError if one of its chunks does not unpack to a chunk.
    """
    plist = node.get_create_plist()
    array = np.empty(spec.shape, spec.dtype)
    if plist.get_layout() != h5d.CHUNKED or not _is_unpacked_here(node, spec, plist):
        refuse_damaged_chunks(node, spec)
        node.read(h5s.ALL, h5s.ALL, array)
        return array
    filling = np.zeros((), spec.dtype)
    plist.get_fill_value(filling)
    array[...] = filling
    for place, content in _unpacked_chunks(node, spec, plist):
        block = np.frombuffer(content or b"", spec.dtype).reshape(plist.get_chunk())
        room = array[tuple(map(slice, place, map(operator.add, place, block.shape)))]
        room[...] = block[tuple(map(slice, room.shape))]
    return array


def refuse_damaged_chunks(node: Any, spec: ArraySpec) -> None:
    """Raises ValueError for an array of which a chunk does not unpack to a chunk."""
    plist = node.get_create_plist()
    if plist.get_layout() == h5d.CHUNKED:
        for _ in _unpacked_chunks(node, spec, plist):
            pass


def _filters(plist: Any) -> list[int]:
    return [int(plist.get_filter(i)[0]) for i in range(plist.get_nfilters())]


def _is_unpacked_here(node: Any, spec: ArraySpec, plist: Any) -> bool:
    """Whether what is unpacked for the check is already the array: with gzip, the usual case."""
    filters = _filters(plist)
    settings = [plist.get_filter(i)[2] for i in range(len(filters))]
    return (
        filters in ([DEFLATE], [SHUFFLE, DEFLATE])
        and all(len(numbers) == 1 for numbers in settings)
        and (len(filters) == 1 or settings[0][0] == spec.dtype.itemsize)
        and node.get_type().equal(h5t.py_create(spec.dtype))
    )


def _unpacked_chunks(
    node: Any, spec: ArraySpec, plist: Any
) -> Iterator[tuple[tuple[int, ...], bytes | None]]:
    """(place, content) of each chunk; the content is None where only its size was worked out."""
    filters = _filters(plist)
    needed = math.prod(plist.get_chunk()) * node.get_type().get_size()
    found: list[Any] = []
    node.chunk_iter(found.append)
    for chunk in found:
        place = chunk.chunk_offset
        fits = len(place) == len(spec.shape) and all(map(operator.lt, place, spec.shape))
        size, content = _unpacked(node, chunk, filters, needed) if fits else (0, None)
        if size != needed:
            raise ValueError(f"the chunk at {place} is damaged")
        yield place, content


def _unpacked(
    node: Any, chunk: Any, filters: Sequence[int], needed: int
) -> tuple[int, bytes | None]:
    """Size and content of a chunk; no more than a little over `needed` bytes are unpacked."""
    if not filters or chunk.size == 0:
        return chunk.size, None
    mask, packed = node.read_direct_chunk(chunk.chunk_offset)
    used = [number for i, number in enumerate(filters) if not mask >> i & 1]
    size, content = len(packed), packed
    for number in reversed(used):
        if number == SHUFFLE:
            width = node.get_type().get_size()
            if content is not None and size == needed:
                content = np.frombuffer(content, np.uint8).reshape(width, -1).T.tobytes()
        elif content is None:
            return 0, None  # packed by two filters, one upon the other
        elif number == FLETCHER32:
            size, content = size - CHECKSUM_BYTES, content[:-CHECKSUM_BYTES]
        elif number == DEFLATE:
            content = _inflated(content, needed + CHECKSUM_BYTES)
            size = len(content)
        else:
            size, content = _lzf_size(content), None
    return size, content


def _inflated(packed: bytes, longest: int) -> bytes:
    """Unpacked; nothing if it is damaged or longer."""
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(packed, longest + 1)
    except zlib.error:
        return b""
    return content if inflate.eof else b""


def _lzf_size(packed: bytes) -> int:
    """Bytes that `packed` becomes: runs of literals, and copies of what came before."""
    size = place = 0
    while place < len(packed):
        control = packed[place]
        if control < 32:
            size += control + 1
            place += control + 2
        else:
            long = control >> 5 == 7 and place + 1 < len(packed)
            size += (control >> 5) + 2 + (packed[place + 1] if long else 0)
            place += 3 if long else 2
    return size


def heap_fault(path: Path) -> str | None:
    """Why no text of variable length may be read from this file."""
    for place, content in _heaps(path):
        size = int.from_bytes(content[8:HEAP_HEADER], "little")
        start = HEAP_HEADER
        while start + HEAP_HEADER <= min(size, len(content)):
            number = int.from_bytes(content[start : start + 2], "little")
            length = int.from_bytes(content[start + 8 : start + 16], "little")
            step = length if number == 0 else HEAP_HEADER + (length + 7) // 8 * 8
            if step % 2**64 < HEAP_HEADER:
                return f"has a damaged heap of texts at byte {place}; fetch or write it again"
            start += step
    return None


def _heaps(path: Path) -> Iterator[tuple[int, bytes]]:
    """(place, content) of everything that looks like a heap."""
    size = path.stat().st_size
    half = WHOLE_BYTES // 2
    pieces = [(0, size)] if size <= WHOLE_BYTES else [(0, half), (size - half, size)]
    with path.open("rb") as file:
        for start, end in pieces:
            for place in _finds(file, start, end):
                file.seek(place + 8)
                length = int.from_bytes(file.read(8), "little")
                file.seek(place)
                yield place, file.read(min(length, size))


def _finds(file: Any, start: int, end: int) -> Iterator[int]:
    """Where HEAP stands between `start` and `end`."""
    overlap = len(HEAP) - 1
    while start < end:
        file.seek(start)
        block = file.read(min(BLOCK, end - start) + overlap)
        found = block.find(HEAP)
        while found >= 0:
            yield start + found
            found = block.find(HEAP, found + 1)
        start += BLOCK
