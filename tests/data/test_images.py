"""Mapped, pooled and cached frames are the same frames, and none is kept twice."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data.dataset import Dataset
from rmexp.data.frames import Buffers, MappedFrames, PooledFrames
from rmexp.errors import DatasetError

IMAGES = {"cam": (6, 4, 3), "wrist": (3, 5, 1)}
GZIP = {"compression": "gzip", "chunks": True}


def everything(dataset: Dataset) -> dict[str, Any]:
    """All training windows, in order."""
    windows = len(dataset._train)
    loader = dataset.train_loader(batch_size=windows, seed=0, keys=None, device="cpu")
    (batch,) = list(loader)
    order = torch.argsort(batch["index"])
    return {k: {n: t[order] for n, t in v.items()} for k, v in batch.items() if isinstance(v, dict)}


def frames_of(dataset: Dataset, key: str) -> Any:
    assert dataset._images._opened is not None
    return dataset._images._opened[1][key]


@pytest.mark.parametrize("own_next", [False, True])
@pytest.mark.parametrize("options", [{}, GZIP], ids=["plain", "gzip"])
@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_frames_are_those_of_the_file(
    placement: str,
    options: dict[str, Any],
    own_next: bool,
    write_demos: WriteDemos,
    open_dataset: OpenDataset,
) -> None:
    path = write_demos((4, 6), images=IMAGES, image_options=options, own_next=own_next)
    keys = ["cam", "wrist", "object"]
    dataset = open_dataset(path, obs_keys=keys, placement=placement, seq_length=2, goal_mode="last")
    assert dataset.obs_shapes == {"cam": (6, 4, 3), "object": (4,), "wrist": (3, 5, 1)}
    found = everything(dataset)
    with h5py.File(path) as file:
        for group in ("obs", "next_obs"):
            for key in keys:
                demos = [np.asarray(file[f"data/demo_{i}/{group}/{key}"]) for i in (0, 1)]
                flat = torch.from_numpy(np.concatenate(demos))
                rows = [(t, min(t + 1, last)) for first, last in ((0, 3), (4, 9))
                        for t in range(first, last + 1)]  # fmt: skip
                expected = flat[torch.tensor(rows)]
                assert torch.equal(found[group][key], expected.to(found[group][key].dtype))
                goals = flat[torch.tensor([3] * 4 + [9] * 6)]
                if group == "next_obs":
                    assert torch.equal(found["goal_obs"][key], goals.to(expected.dtype).to(
                        found["goal_obs"][key].dtype))  # fmt: skip
    assert found["obs"]["cam"].dtype == torch.uint8
    kind = MappedFrames if placement == "mmap" and not options else PooledFrames
    assert isinstance(frames_of(dataset, "cam"), kind)


@pytest.mark.parametrize("userblock_size", [0, 512])
def test_bytes_are_found_behind_a_user_block(
    userblock_size: int, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((4,), images=IMAGES, userblock_size=userblock_size)
    mapped = everything(open_dataset(path, obs_keys=["cam"], placement="mmap"))
    pooled = everything(open_dataset(path, obs_keys=["cam"], placement="ram"))
    assert torch.equal(mapped["obs"]["cam"], pooled["obs"]["cam"])


def test_several_files_are_mapped_side_by_side(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    paths = [
        write_demos((4, 3), name="a.hdf5", images=IMAGES),
        write_demos((5,), name="b.hdf5", images=IMAGES, seed=1),
    ]
    batches = [
        everything(open_dataset(paths, obs_keys=["cam", "wrist"], placement=placement))
        for placement in ("mmap", "ram")
    ]
    for group in ("obs", "next_obs"):
        for key in ("cam", "wrist"):
            assert torch.equal(batches[0][group][key], batches[1][group][key])


def test_next_frames_that_follow_are_not_kept_twice(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((4, 6), images=IMAGES)
    dataset = open_dataset(path, obs_keys=["cam", "object"])
    everything(dataset)
    assert frames_of(dataset, "cam")._frames.shape == (4 + 6 + 2, 6 * 4 * 3)
    assert dataset._block.values.shape[0] == 4 + 6 + 2


def test_the_cache_is_made_once_and_named_by_content(
    tmp_path: Path, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def cached() -> list[str]:
        return sorted(p.name for p in (tmp_path / "cache").iterdir())

    settings = {"obs_keys": ["cam"], "placement": "mmap"}
    path = write_demos((4, 6), images=IMAGES, image_options=GZIP)
    first = everything(open_dataset(path, **settings))
    names = cached()
    assert len(names) == 2  # the frames, and where each next frame is
    stamps = [(tmp_path / "cache" / name).stat().st_mtime_ns for name in names]
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(path.read_bytes())
    again = everything(open_dataset(copy, **settings))
    assert torch.equal(first["next_obs"]["cam"], again["next_obs"]["cam"])
    assert [(tmp_path / "cache" / name).stat().st_mtime_ns for name in cached()] == stamps
    other = write_demos((4, 6), images=IMAGES, image_options=GZIP, seed=1)
    assert not torch.equal(everything(open_dataset(other, **settings))["obs"]["cam"],
                           first["obs"]["cam"])  # fmt: skip
    assert len(cached()) == 4
    assert not [name for name in cached() if "tmp" in name]


def test_what_a_killed_process_left_in_the_cache_is_removed(
    tmp_path: Path, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host, digest = platform.node(), "0123456789abcdef01234567"
    torn = [f"cam-{digest}.tmp-{host}-{dead.pid}", f"a.b-{digest}.next.tmp-{host}-{dead.pid}"]
    others = [
        f"cam-{digest}.tmp-{host}-{os.getppid()}",  # alive
        f"cam-{digest}.tmp-another{host}-{dead.pid}",  # known to another machine
        f"cam.tmp-{host}-{dead.pid}",
        f"cam-{digest}.tmp-{host}-{dead.pid}.txt",
        f"cam-{digest}.npy",
    ]
    (tmp_path / "cache").mkdir()
    for name in (*torn, *others):
        (tmp_path / "cache" / name).touch()
    path = write_demos((4, 6), images=IMAGES, image_options=GZIP)
    everything(open_dataset(path, obs_keys=["cam"], placement="mmap"))
    names = {file.name for file in (tmp_path / "cache").iterdir()}
    assert names >= set(others)
    assert not names & set(torn)


def test_a_key_with_a_dot_keeps_its_hash_in_the_cache(
    tmp_path: Path, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    found = []
    for seed in (0, 1):
        shape = {"images.top": IMAGES["cam"]}
        path = write_demos((4, 6), images=shape, image_options=GZIP, seed=seed)
        found.append(everything(open_dataset(path, obs_keys=["images.top"], placement="mmap")))
    assert not torch.equal(found[0]["obs"]["images.top"], found[1]["obs"]["images.top"])
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_cache_that_cannot_be_written_says_what_to_type(
    tmp_path: Path, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    path = write_demos((4, 6), images=IMAGES, image_options=GZIP)
    dataset = open_dataset(path, obs_keys=["cam"], placement="mmap")
    with pytest.raises(DatasetError, match="image cache cannot be written") as error:
        everything(dataset)
    assert "dataset.cache_dir=DIR" in str(error.value)


def test_next_observations_can_be_wanted_later(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(write_demos((4, 6), images=IMAGES), obs_keys=["cam"])
    plain = dataset.train_loader(batch_size=3, seed=0, keys=["obs", "index"], device="cpu")
    before = next(iter(plain))
    assert frames_of(dataset, "cam")._frames.shape[0] == 10
    after = everything(dataset)
    assert torch.equal(before["obs"]["cam"], after["obs"]["cam"][before["index"]])
    next(iter(plain))


def test_buffers_are_reused_only_when_nobody_looks() -> None:
    buffers = Buffers()
    first = torch.from_numpy(buffers.take((3, 7))).view(-1)[2:]
    place = first.data_ptr() - 2
    second = torch.from_numpy(buffers.take((3, 7)))
    assert second.data_ptr() != place
    del first
    third = torch.from_numpy(buffers.take((3, 7)))
    assert third.data_ptr() == place
    assert torch.from_numpy(buffers.take((2, 7))).data_ptr() not in (place, second.data_ptr())
