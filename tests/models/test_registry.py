"""Names, arguments and their errors."""

import subprocess
import sys

import pytest

from deepforest_xr import models
from deepforest_xr.errors import ConfigError


def test_listing_networks_loads_no_torch():
    code = (
        "import sys; from deepforest_xr import models; "
        "assert all(models.entry(n).summary for n in models.names()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_entry_has_its_own_name_and_margins_in_whole_strides():
    assert len(set(models.names())) == len(models.names())
    for known in map(models.entry, models.names()):
        assert known.halo > 0
        assert known.halo % known.stride == known.reach % known.stride == 0
        assert known.halo <= known.reach


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"u-net, deeplab.*Did you mean 'deepforest-1b'\?"):
        models.build("DeepForest1b")
    with pytest.raises(ConfigError, match=r"there are u-net.*2b\.$"):
        models.entry("zzz")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("deepforest-2b", {}, "needs months="),
        ("u-net", {"months": 7}, "one branch and takes no months=7"),
        ("deepforest-1b", {"s2_branch": "released"}, "no s2_branch='released'; there are"),
        ("deepforest-2b", {"months": 7, "s2_branch": "x"}, "'released'"),
        ("u-net", {"bands": 0}, "bands=0 is not a positive whole number"),
        ("u-net", {"classes": 2.5}, "classes=2.5 is not"),
    ],
)
def test_an_argument_that_does_not_belong_is_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        models.build(name, **arguments)


def test_build_arguments_rebuild_the_network():
    network = models.build("u-net", bands=3, classes=4)
    again = models.build(network.model_name, **network.build_arguments)
    assert (again.bands, again.classes) == (3, 4)
