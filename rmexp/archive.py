"""Tensors and plain values out of a file from anywhere: nothing is executed, nothing unpacks to
more than the file has bytes, and no network is built that is larger than the weights for it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rmexp.errors import CheckpointError, DamagedError

ZIP = b"PK\x03\x04"
SLACK = 256 << 20  # bytes that networks may have beside their weights: tables, first values
SMALLEST = 4 << 10  # bytes that any tensor counts for, so that their number is bounded too
CREATORS = (
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.arange,
    torch.linspace,
    torch.eye,
)


def load(path: Path, data: Sequence[Any] = ()) -> Any:
    """Read what `torch.save` wrote, onto the CPU.

    Args:
        path: the file.
        data: classes and functions that are data too, as `torch.serialization.safe_globals` takes.

    Raises:
        CheckpointError: damaged, or made to unpack to more than it is.
        pickle.UnpicklingError: it holds objects; none has been made.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            raise DamagedError(f"{path}: damaged or not a checkpoint: no archive inside")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or size < sum(
            entry.file_size for entry in entries
        ):
            raise CheckpointError(f"{path}: refused: it unpacks to more than it is")
        with torch.serialization.safe_globals(list(data)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (CheckpointError, OSError, pickle.UnpicklingError):
        raise
    except Exception as error:  # the archive's and the unpickler's complaints are of every kind
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedError(f"{path}: damaged or not a checkpoint: {reason}") from error
    _refuse_inflated(path, content, size)
    return content


def tensor_bytes(content: Any) -> int:
    """Bytes of all tensors in nested dicts and lists, those that share memory counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in _tensors(content)}
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def no_larger_than(stored: int) -> Generator[None]:
    """Building networks in this block may take little more than twice `stored` bytes.

    Raises CheckpointError before more is taken.
    """
    with _Limit(2 * stored + SLACK):
        yield


class _Limit(TorchFunctionMode):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = self._left = limit

    def __torch_function__(
        self,
        func: Any,
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in CREATORS:
            sketch = {k: v for k, v in named.items() if k not in ("generator", "out", "pin_memory")}
            wanted = func(*args, **{**sketch, "device": "meta"}).nbytes
            self._left -= max(wanted, SMALLEST)
            if self._left < 0:
                raise CheckpointError(
                    f"refused: its configuration asks for more than {self._limit:,} bytes of "
                    "networks, and it has no such weights"
                )
        return func(*args, **named)


def _refuse_inflated(path: Path, content: Any, size: int) -> None:
    for tensor in _tensors(content):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: refused: it holds a tensor that is not plain numbers")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: refused: a tensor declares more numbers than it stores")
    if tensor_bytes(content) > size:
        raise CheckpointError(f"{path}: refused: it declares more numbers than it stores")


def _tensors(content: Any) -> list[Tensor]:
    """Every tensor, however deep, and however often it is referred to."""
    found: list[Tensor] = []
    seen: set[int] = set()
    left = [content]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
    return found
