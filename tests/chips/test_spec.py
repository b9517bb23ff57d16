"""Settings that contradict themselves are refused when made."""

import pytest

from deepforest_xr.chips import ChipSpec
from deepforest_xr.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"buffer": -1}, "buffer=-1 chips is negative; try 1"),
        ({"size": 64, "cell": 32, "buffer": 1}, "cell=32 and buffer=1 exclude each other"),
        ({"block": 0}, "block=0 chips is not positive"),
        ({"seed": -1}, "seed=-1 is negative"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, match):
    with pytest.raises(ConfigError, match=match) as caught:
        ChipSpec(**settings)
    assert "\n" not in str(caught.value)


def test_cells_and_no_buffer_go_together():
    assert ChipSpec(size=64, cell=32, buffer=0).buffer == 0
