"""Dialects are read, hostile files are refused quickly, and each message says what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data.hdf5 import DemoFile
from rmexp.data.layouts import ASSETS
from rmexp.errors import DatasetError

Change = Callable[[h5py.File], object]


def changed(path: Path, change: Change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_wrong_counts_are_a_warning_that_names_both(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def lie(file: h5py.File) -> None:
        file["data"].attrs["total"] = 99
        file["data/demo_1"].attrs["num_samples"] = 322
        file["data/demo_2"].attrs["num_samples"] = "8"

    warnings = open_dataset(changed(write_demos(), lie)).warnings
    assert any("demo_1 says num_samples=322 and has 3 actions (and 1 more" in w for w in warnings)
    assert any("total=99 is declared and 15 frames" in w for w in warnings)


def test_names_with_gaps_or_without_underscore_keep_their_order(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def rename(file: h5py.File) -> None:
        for old, new in (("demo_0", "demo10"), ("demo_1", "demo2"), ("demo_2", "other")):
            file.move(f"data/{old}", f"data/{new}")

    path = changed(write_demos(), rename)
    with DemoFile(str(path)) as file:
        assert file.demos == ("demo2", "demo10", "other")
        assert file.lengths == {"demo2": 3, "demo10": 5, "other": 7}
    assert "15 frames" in open_dataset(path).summary()


def test_groups_beside_the_demos_are_not_demos(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = changed(write_demos(), lambda file: file.create_group("data/metadata"))
    with DemoFile(str(path)) as file:
        assert file.demos == ("demo_0", "demo_1", "demo_2")
    assert open_dataset(path).ac_dim == 3


def test_a_demo_without_actions_is_named(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = changed(write_demos(), lambda file: file.__delitem__("data/demo_1/actions"))
    with pytest.raises(DatasetError, match="demo_1 has no actions"):
        open_dataset(path)
    changed(path, lambda file: file.create_dataset("mask/good", data=[b"demo_0", b"demo_2"]))
    assert "12 frames" in open_dataset(path, train_filter="good", valid_filter=None).summary()


def test_masks_of_variable_length_strings(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def add(file: h5py.File) -> None:
        file.create_dataset("mask/train", data=["demo_2"], dtype=h5py.string_dtype())
        file.create_dataset("mask/valid", data=["demo_0"], dtype=h5py.string_dtype())

    summary = open_dataset(changed(write_demos(), add)).summary()
    assert "1 train + 1 valid episodes (train/valid), 12 frames" in summary


@pytest.mark.parametrize(
    ("env_args", "found", "words"),
    [
        (json.dumps({"env_name": "Lift", "type": 1}), {"env_name": "Lift", "type": 1}, None),
        (json.dumps({"env_name": "Lift"}), {"env_name": "Lift"}, "take it for robosuite"),
        ("{broken", None, "is not JSON"),
        ("[1]", None, "is no JSON object"),
        (None, None, None),
    ],
)
def test_env_args(
    env_args: str | None,
    found: dict[str, object] | None,
    words: str | None,
    write_demos: WriteDemos,
    open_dataset: OpenDataset,
) -> None:
    path = write_demos()
    if env_args is not None:
        changed(path, lambda file: file["data"].attrs.__setitem__("env_args", env_args))
    dataset = open_dataset(path)
    assert dataset.env_args == found
    assert len(dataset.warnings) == (0 if words is None else 1)
    assert words is None or words in dataset.warnings[0]


def test_env_type_may_stand_beside_env_args(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def write(file: h5py.File) -> None:
        file["data"].attrs["env_args"] = "{}"
        file["data"].attrs["type"] = 1

    assert open_dataset(changed(write_demos(), write)).env_args == {"type": 1}


def test_nested_wide_and_boolean_arrays(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    pose = np.arange(3 * 3 * 2, dtype=np.int32).reshape(3, 3, 2)

    def add(file: h5py.File) -> None:
        file["data/demo_0/obs/arm/pose"] = pose
        file["data/demo_0/obs/touch"] = np.array([True, False, True])
        file["data/demo_0/obs/name"] = [b"a", b"b", b"c"]
        file["data/demo_0/obs/log"] = np.zeros((9, 2))
        file["data/demo_0/user_info/clutch"] = np.zeros(50)

    path = changed(write_demos((3,)), add)
    dataset = open_dataset(path)
    assert dataset.obs_shapes == {"object": (4,), "pos": (2,), "touch": (1,)}
    assert any("obs/log has 9 frames" in w for w in dataset.warnings)
    dataset = open_dataset(path, obs_keys=["touch", "arm/pose"])
    (batch,) = list(dataset.train_loader(batch_size=3, seed=0, keys=None, device="cpu"))
    order = torch.argsort(batch["index"])
    expected = torch.from_numpy(pose).float().unsqueeze(1)
    assert torch.equal(batch["obs"]["arm/pose"][order], expected)
    assert batch["obs"]["touch"][order].flatten().tolist() == [1, 0, 1]
    assert "next_obs" not in batch  # of these keys the file has none


def test_links_inside_the_file_are_followed(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    def link(file: h5py.File) -> None:
        del file["data/demo_0/obs/pos"]
        file["data/demo_0/obs/pos"] = h5py.SoftLink("/data/demo_0/next_obs/pos")
        file["data/demo_1/obs/more"] = h5py.SoftLink("pos")

    dataset = open_dataset(changed(write_demos(), link), obs_keys=["pos"])
    assert dataset.obs_shapes == {"pos": (2,)}


def loop(file: h5py.File) -> None:
    del file["data/demo_0/obs/pos"]
    file["data/demo_0/obs/pos"] = h5py.SoftLink("/data/demo_0/obs/vel")
    file["data/demo_0/obs/vel"] = h5py.SoftLink("/data/demo_0/obs/pos")


def outside(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.ExternalLink("/etc/hostname", "/data")


def outside_by_soft_link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.ExternalLink("/etc/hostname", "/data")
    del file["data/demo_1/obs/pos"]
    file["data/demo_1/obs/pos"] = h5py.SoftLink("/elsewhere/obs/pos")


def external_storage(file: h5py.File) -> None:
    del file["data/demo_0/obs/pos"]
    file.create_dataset(
        "data/demo_0/obs/pos", (5, 2), "f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 2), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "data", (5, 2))
    del file["data/demo_0/obs/pos"]
    file.create_virtual_dataset("data/demo_0/obs/pos", layout)


def absurd_shape(file: h5py.File) -> None:
    for key, width in (("actions", 3), ("obs/object", 4), ("obs/pos", 2)):
        del file[f"data/demo_1/{key}"]
        file.create_dataset(f"data/demo_1/{key}", (2**40, width), "f8", chunks=(1024, width))


def absurd_chunk(file: h5py.File) -> None:
    del file["data/demo_1/obs/pos"]
    wide = file.create_dataset(
        "data/demo_1/obs/pos", (3, 2**29), "u1", chunks=(3, 2**29), compression="gzip"
    )
    wide.id.write_direct_chunk((0, 0), bytes(2 << 20))  # stores what a deflated chunk might


def group_cycle(file: h5py.File) -> None:
    file["data/demo_0/obs/again"] = file["data/demo_0/obs"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (loop, "demo_0/obs/pos is a loop of links"),
        (outside, "demo_1/actions is a link into another file"),
        (outside_by_soft_link, "elsewhere is a link into another file"),
        (external_storage, "demo_0/obs/pos keeps its data in another file"),
        (virtual, "demo_0/obs/pos keeps its data in another file"),
        (absurd_shape, "demo_1/actions declares shape .* stores 0 bytes"),
        (absurd_chunk, "demo_1/obs/pos is stored in chunks of 1,610,612,736 bytes"),
        (group_cycle, "demo_0/obs/again is linked more than once"),
    ],
)
def test_hostile_files_are_refused_at_once(
    change: Change, words: str, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = changed(write_demos(), change)
    start = time.monotonic()
    with pytest.raises(DatasetError, match=words) as error:
        open_dataset(path)
    assert str(path) in str(error.value)
    assert time.monotonic() - start < 2


def test_what_is_no_hdf5_file(
    tmp_path: Path, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    whole = write_demos()
    text = tmp_path / "text.hdf5"
    text.write_text("demonstrations")
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    empty = tmp_path / "empty.hdf5"
    empty.write_bytes(b"")
    for path, words in (
        (text, "is not an HDF5 file"),
        (empty, "is not an HDF5 file"),
        (cut, "is truncated"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.hdf5", "no such file; say where it is with dataset.path=FILE$"),
    ):
        with pytest.raises(DatasetError, match=words) as error:
            open_dataset(path)
        assert str(path) in str(error.value)


def test_a_published_set_that_is_absent_says_where_it_comes_from(
    tmp_path: Path, open_dataset: OpenDataset
) -> None:
    with pytest.raises(DatasetError) as error:
        open_dataset(tmp_path / "low_dim.hdf5", source="robomimic_datasets, lift/ph/low_dim.hdf5")
    for words in (
        "It comes from robomimic_datasets, lift/ph",
        "paths.data_dir=DIR",
        "dataset.path=",
    ):
        assert words in str(error.value)


def test_only_an_embedded_file_comes_with_the_package(
    tmp_path: Path, open_dataset: OpenDataset
) -> None:
    (tmp_path / "lift.hdf5").touch()
    for path, source, words in (
        (ASSETS / "nowhere.hdf5", None, r"tools\.generate task=nowhere out=.*nowhere\.hdf5"),
        (tmp_path / "lif.hdf5", None, r"say where it is .*; did you mean 'lift\.hdf5'\?$"),
        (
            tmp_path / "my.hdf5",
            "robomimic_datasets, low_dim.hdf5",
            "say where it is with dataset.path=FILE$",
        ),
    ):
        with pytest.raises(DatasetError, match=words) as error:
            open_dataset(path, source=source)
        assert ("package" in str(error.value)) == (path.parent == ASSETS)
        assert "It comes from" not in str(error.value)


def test_damage_never_ends_in_anything_but_a_dataset_error(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((4, 3), images={"cam": (3, 4, 3)}, image_options={"compression": "gzip"})
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set[bool]()
    for _ in range(60):
        damaged = bytearray(original)
        for place in rng.integers(0, len(damaged), 20):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            dataset = open_dataset(path, obs_keys=["object", "cam"])
            list(dataset.train_loader(batch_size=3, seed=0, keys=None, device="cpu"))
            outcomes.add(True)
        except DatasetError:
            outcomes.add(False)
    assert False in outcomes
