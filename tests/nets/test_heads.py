from __future__ import annotations

from collections.abc import Callable

import pytest

from rmexp.errors import ConfigError
from rmexp.nets.heads import GMM, Gaussian


def gaussian(init_std: float = 0.1, min_std: float = 0.01) -> Gaussian:
    return Gaussian(init_std=init_std, min_std=min_std, fixed_std=False, low_noise_eval=True)


def gmm(num_modes: int = 1, min_std: float = 0.1) -> GMM:
    return GMM(num_modes=num_modes, min_std=min_std, low_noise_eval=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gaussian(init_std=0.0), "head.init_std: 0.0 must be above 0"),
        (lambda: gaussian(min_std=-0.1), "head.min_std: -0.1 must be at least 0"),
        (lambda: gmm(num_modes=0), "head.num_modes: 0 must be at least 1"),
        (lambda: gmm(min_std=-0.1), "head.min_std: -0.1 must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(words)
