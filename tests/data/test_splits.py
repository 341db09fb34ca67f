from __future__ import annotations

from typing import Any

import pytest

from rmexp.data.splits import Split, split_demos
from rmexp.errors import DatasetError

DEMOS = tuple(f"demo_{i}" for i in range(10))
MASKS = {"train": DEMOS[:8], "valid": DEMOS[8:], "20_percent": DEMOS[7:9], "none": ()}


def split(
    demos: tuple[str, ...] = DEMOS, masks: dict[str, Any] | None = None, **changes: Any
) -> Split:
    settings: dict[str, Any] = {
        "train_filter": "auto",
        "valid_filter": "auto",
        "valid_fraction": 0.2,
        "seed": 0,
    } | changes
    return split_demos("x.hdf5", demos, MASKS if masks is None else masks, **settings)


def test_auto_takes_the_masks_of_the_file() -> None:
    found = split()
    assert (found.train, found.valid) == (DEMOS[:8], DEMOS[8:])


def test_without_masks_a_seeded_share_of_the_episodes_is_drawn() -> None:
    found = split(masks={})
    assert len(found.valid) == 2
    assert sorted(found.train + found.valid) == sorted(DEMOS)
    assert found == split(masks={})
    assert any(split(masks={}, seed=seed).valid != found.valid for seed in range(1, 4))


def test_null_means_all_demos_and_the_rest() -> None:
    assert split(train_filter=None, valid_filter="valid").train == DEMOS[:8]
    everything = split(train_filter=None, valid_filter=None, valid_fraction=0)
    assert (everything.train, everything.valid) == (DEMOS, ())


def test_validation_can_be_drawn_from_a_filter_key() -> None:
    found = split(train_filter="train", valid_filter=None)
    assert len(found.valid) == 2
    assert set(found.train) | set(found.valid) == set(DEMOS[:8])


def test_order_is_the_files_whatever_the_mask_says() -> None:
    assert split(masks={"train": ("demo_3", "demo_1"), "valid": ("demo_2",)}).train == (
        "demo_1",
        "demo_3",
    )


def test_a_share_never_takes_everything() -> None:
    found = split(demos=DEMOS[:2], masks={}, valid_fraction=0.9)
    assert (len(found.train), len(found.valid)) == (1, 1)


def test_one_demonstration_trains_without_validation_and_says_so() -> None:
    found = split(demos=DEMOS[:1], masks={})
    assert (found.train, found.valid) == (DEMOS[:1], ())
    assert "one demonstration only" in found.warnings[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train_filter": "trian"},
            "dataset.train_filter=trian: no filter key 'trian'; did you mean 'train'.; "
            "it has 20_percent, none, train, valid; dataset.train_filter=auto",
        ),
        ({"valid_filter": "vlid"}, "dataset.valid_filter=vlid: .* did you mean 'valid'"),
        ({"train_filter": "none"}, "dataset.train_filter=none: filter key 'none' is empty"),
        ({"train_filter": "20_percent", "valid_filter": "valid"}, "share 1 demos .demo_8"),
        ({"train_filter": "valid", "valid_filter": "valid"}, "share 2 demos"),
        ({"train_filter": "train", "masks": {}}, "it has none .no group `mask`"),
        ({"masks": {"train": ("demo_7", "demo_77")}}, "names 'demo_77'"),
        ({"train_filter": None, "valid_filter": "all", "masks": {"all": DEMOS}}, "no demo is left"),
    ],
)
def test_splits_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        split(**changes)
