"""A Keras file gives the network that Keras itself runs, or says in one line why not.

The graphs of `keras_graphs` are independent of the package: written from the published
description, run by Keras. All weights are random, so two that are swapped show.
"""

import sys
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
import torch

from deepforest_xr import models
from deepforest_xr.errors import (
    BandMismatchError,
    ConfigError,
    MissingExtraError,
    ModelError,
)
from deepforest_xr.models.blocks import ConvLSTM

from . import keras_graphs
from .conftest import CASES, MONTHS, inputs
from .keras_graphs import keras, layers  # which tells Keras to run on torch

# Keras' variables, whenever it copies one to numpy.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

BANDS, CLASSES = 4, 6
SIZE = (64, 96)
# At 1/8 of this size, taps of dilation 18 still land inside.
SIZE_OF = {"deeplab": (160, 192)}
PUBLISHED_COUNTS = {
    ("u-net", None): 3_860_098,
    ("deeplab", None): 54_467_752,
    ("deepforest-1a", None): 30_584_146,
    ("deepforest-1b", None): 31_059_922,
    ("deepforest-1c", None): 31_296_680,
    ("deepforest-2a", None): 4_015_424,
    ("deepforest-2b", "released"): 28_215_606,
}


def arguments(name, s2_branch=None):
    """What graph, build and load_keras all take."""
    months = MONTHS if models.entry(name).is_two_branch else None
    return {"bands": BANDS, "classes": CLASSES, "months": months, "s2_branch": s2_branch}


def graph(name, s2_branch=None, *, seed=0):
    size = SIZE_OF.get(name, SIZE)
    built = keras_graphs.graph(name, **arguments(name, s2_branch), size=size)
    return keras_graphs.randomize(built, seed)


def channels_last(x):
    """(..., c, y, x) to (..., y, x, c)."""
    return x.movedim(-3, -1)


def channels_first(y):
    return y.movedim(-1, -3)


def run(model, *arrays):
    """Outputs of a Keras model for channels-first tensors, as a list of such."""
    last = [channels_last(array) for array in arrays]
    with torch.no_grad():
        out = model(last if len(last) > 1 else last[0])
    return [channels_first(y) for y in (out if isinstance(out, list) else [out])]


def distance(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


@contextmanager
def refused(error, *parts):
    """The block raises exactly `error`, with all `parts` in one line."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Many small runs: on a busy machine, threads that wait for each other double the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES, ids=[f"{n}-{b or 'default'}" for n, b in CASES])
def saved_case(request, tmp_path_factory):
    """Arguments, Keras model and its file, for every network."""
    model = graph(*request.param)
    path = tmp_path_factory.mktemp("keras") / "model.h5"
    model.save(path)
    yield *request.param, model, path
    path.unlink()  # up to 220 MB


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A file of the smallest network."""
    path = tmp_path_factory.mktemp("keras") / "unet.h5"
    graph("u-net").save(path)
    return path


@pytest.fixture
def copy(unet, tmp_path):
    """A copy of that file to spoil."""
    path = tmp_path / "copy.h5"
    path.write_bytes(unet.read_bytes())
    yield path
    path.unlink()  # 15 MB


def load_unet(path, **changes):
    return models.load_keras("u-net", path, **{"bands": BANDS, "classes": CLASSES} | changes)


# ---- the same numbers as Keras


def test_logits_are_those_of_keras(saved_case):
    name, s2_branch, model, path = saved_case
    network = models.load_keras(name, path, **arguments(name, s2_branch))
    pair = inputs(network, *SIZE_OF.get(name, SIZE))
    expected = run(model, *reversed(pair))  # Keras takes Sentinel-1 first
    with torch.no_grad():
        assert distance(network(*pair), expected[-1]) <= 1e-4
        if len(pair) == 2:
            s2, s1 = pair
            own = network.s1_head(network.s1_lstm(s1.unbind(1)))
            assert distance(own, expected[0]) <= 1e-4
            own = network.s2_branch.head(network.s2_branch.features(s2))
            assert distance(own, expected[1]) <= 1e-4
    assert all(0.2 < logits.std() < 5 for logits in expected)  # else 1e-4 would say little


def test_a_file_of_another_network_is_recognised(saved_case):
    name, s2_branch, model, path = saved_case
    count = sum(bool(layer.weights) for layer in model.layers)
    other = "deeplab" if name == "u-net" else "u-net"
    whose = name + (f" with s2_branch={s2_branch!r}" if s2_branch else "")
    said = f"{path} holds {count} layers", f"{other} (", f"these are the layers of {whose}."
    with refused(ModelError, *said):
        models.load_keras(other, path, bands=BANDS, classes=CLASSES)


def test_the_argument_that_is_wrong_is_named_with_its_value(saved_case):
    name, s2_branch, _, path = saved_case
    right = arguments(name, s2_branch)
    with refused(BandMismatchError, str(path), "bands=9", f"build it with bands={BANDS}."):
        models.load_keras(name, path, **right | {"bands": 9})
    with refused(ModelError, str(path), "classes=9", f"build it with classes={CLASSES}."):
        models.load_keras(name, path, **right | {"classes": 9})


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_conv_lstm_alone_is_that_of_keras(activation, go_backwards):
    steps, rows, cols, channels, filters = 4, 6, 7, 3, 5
    x = layers.Input((steps, rows, cols, channels))
    model = keras.Model(x, keras_graphs.conv_lstm(x, filters, activation, go_backwards))
    keras_graphs.randomize(model)
    kernel, recurrent, bias = map(torch.tensor, model.get_weights())
    ours = ConvLSTM(channels, filters, activation=activation, go_backwards=go_backwards)
    ours.load_state_dict(
        {
            "kernel": kernel.permute(3, 2, 0, 1),
            "recurrent_kernel": recurrent.permute(3, 2, 0, 1),
            "bias": bias,
        }
    )
    # Large enough for the gates to clip on both sides now and then.
    series = 1.5 * torch.randn(2, steps, channels, rows, cols, generator=torch.manual_seed(1))
    with torch.no_grad():
        own = ours(series.unbind(1))
    assert distance(own, run(model, series)[0]) <= 1e-5


def test_the_network_is_that_of_build(unet):
    network = load_unet(unet)
    built = models.build("u-net", bands=BANDS, classes=CLASSES)
    assert not network.training
    assert network.build_arguments == built.build_arguments
    assert network.model_name == "u-net"
    described = [
        {key: (w.shape, w.dtype, w.device, w.is_contiguous()) for key, w in n.state_dict().items()}
        for n in (network, built)
    ]
    assert described[0] == described[1]
    assert all(weight.requires_grad for weight in network.parameters())


# ---- names and numbers of layers


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_numbers_start_anywhere(tmp_path):
    keras.utils.clear_session()
    networks, numbered = [], []
    for i in range(2):
        model = graph("u-net")
        model.save(tmp_path / f"{i}.h5")
        networks.append(load_unet(tmp_path / f"{i}.h5"))
        numbered.append({layer.name for layer in model.layers})
    # As text, conv2d_10 would come before conv2d_9.
    assert {"conv2d", "conv2d_9", "conv2d_10"} <= numbered[0]
    assert {"conv2d_transpose_9", "conv2d_transpose_10"} <= numbered[1]
    assert "conv2d" not in numbered[1]
    assert same_weights(*networks)


def keras_2_name(name, counters):
    """Name as Keras 2 gives it in a process that has built models before: 7, 8, 9, 10, ..."""
    stem, _, number = name.rpartition("_")
    if not number.isdigit():
        stem, number = name, 0
    if stem not in ("conv2d", "conv2d_transpose", "conv_lstm2d", "batch_normalization"):
        return name
    first = counters.setdefault(stem, int(number))
    return f"{stem.replace('conv_lstm2d', 'conv_lst_m2d')}_{int(number) - first + 7}"


def texts(values):
    """Names in an attribute, which h5py gives as bytes or text."""
    return [v.decode() if isinstance(v, bytes) else v for v in values]


def write_as_keras_2(source, target, *, whole_model):
    """Rewrite a file of Keras 3 with names, suffixes and split lists as Keras 2 wrote them."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        root = new.create_group("model_weights") if whole_model else new
        groups = old["model_weights"]
        listed, counters = [], {}
        for name in sorted(texts(groups.attrs["layer_names"]), key=lambda n: (len(n), n)):
            listed.append(keras_2_name(name, counters))
            group = root.create_group(listed[-1])
            paths = texts(groups[name].attrs["weight_names"])
            renamed = [f"{listed[-1]}/{path.split('/')[-1]}:0" for path in paths]
            group.attrs["weight_names"] = np.array(renamed, "S")
            for path, new_path in zip(paths, renamed, strict=True):
                group[new_path] = groups[name][path][()]
        order = np.random.default_rng(0).permutation(len(listed))
        for i, chunk in enumerate(np.array_split(order, 3)):
            root.attrs[f"layer_names{i}"] = np.array([listed[j] for j in chunk], "S")
    return listed


@pytest.mark.parametrize("whole_model", [True, False], ids=["save", "save_weights"])
def test_a_file_of_keras_2_gives_the_same_weights(tmp_path, whole_model):
    graph("deepforest-2a").save(tmp_path / "3.h5")
    listed = write_as_keras_2(tmp_path / "3.h5", tmp_path / "2.h5", whole_model=whole_model)
    expected = {"conv_lst_m2d_7", "conv2d_9", "conv2d_10", "batch_normalization_10", "Unet_output"}
    assert expected <= set(listed)
    new, old = (
        models.load_keras("deepforest-2a", tmp_path / f"{i}.h5", **arguments("deepforest-2a"))
        for i in (3, 2)
    )
    assert same_weights(new, old)


# ---- what is refused


def test_a_file_that_is_not_there(tmp_path):
    with refused(ModelError, str(tmp_path / "no.h5"), "is not a file"):
        load_unet(tmp_path / "no.h5")


def test_a_file_that_is_not_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("git-lfs pointer")
    with refused(ModelError, str(path), "not an HDF5 file, expected legacy HDF5"):
        load_unet(path)


def test_a_keras_archive(tmp_path):
    path = tmp_path / "a.keras"
    x = layers.Input((3,))
    keras.Model(x, layers.Dense(2)(x)).save(path)
    with refused(ModelError, str(path), "a .keras archive", 'model.save("x.h5")'):
        load_unet(path)


def test_the_weights_layout_of_keras_3(tmp_path):
    path = tmp_path / "a.weights.h5"
    x = layers.Input((5, 7, 3))
    keras.Model(x, layers.Conv2D(2, 1)(x)).save_weights(path)
    with refused(ModelError, str(path), "layer_names", 'model.save("x.h5")'):
        load_unet(path)


def test_a_network_that_is_none_of_ours(tmp_path):
    path = tmp_path / "a.h5"
    x = layers.Input((5, 7, 3))
    y = layers.Conv2D(2, 1, name="mine")(layers.Conv2D(2, 1)(x))
    keras.Model(x, y).save(path)
    with refused(
        ModelError,
        f"{path} holds 2 layers with weights, u-net (bands=4, classes=6) has 35",
        "1 conv2d (not 17)",
        "0 conv2d_transpose (not 6)",
        "1 mine (not 0)",
        "no network here has its layers",
    ):
        load_unet(path)


@pytest.mark.parametrize("cut", [0.0001, 0.5, 0.999])
def test_a_file_cut_short(copy, cut):
    whole = copy.read_bytes()
    copy.write_bytes(whole[: int(len(whole) * cut)])
    with refused(ModelError, f"{copy} cannot be read", "cut short or damaged; copy it again"):
        load_unet(copy)


def test_other_bands(unet):
    with refused(
        BandMismatchError,
        f"{unet}: kernel of layer conv2d",
        "has shape (6, 6, 4, 8), u-net (bands=10, classes=6) expects (6, 6, 10, 8)",
        "build it with bands=4.",
    ):
        load_unet(unet, bands=10)


def test_other_classes(unet):
    with refused(
        ModelError,
        f"{unet}: kernel of layer conv2d_transpose",
        "has shape (6, 6, 6, 128), u-net (bands=4, classes=13) expects (6, 6, 13, 128)",
        "build it with classes=6.",
    ):
        load_unet(unet, classes=13)


def spoil(path, weight, change):
    """Replace a weight of the first layer in the file that has it; returns the layer's name."""
    with h5py.File(path, "r+") as file:
        for name, group in file["model_weights"].items():
            for stored in texts(group.attrs["weight_names"]):
                if stored.endswith(weight):
                    values = group[stored][()]
                    del group[stored]
                    group[stored] = change(values)
                    return name
    raise AssertionError(weight)


def test_a_shape_that_no_argument_explains(copy):
    layer = spoil(copy, "kernel", lambda values: values[:3])
    with refused(ModelError, f"kernel of layer {layer} has shape (3, 6", "it was saved from"):
        load_unet(copy)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite(copy, value):
    def change(values):
        values = values.astype("float64")
        values[3] = value
        return values

    layer = spoil(copy, "moving_variance", change)
    with refused(ModelError, f"{copy}: moving_variance of layer {layer} has 1 of", "not finite"):
        load_unet(copy)


def test_weights_that_are_whole_numbers(copy):
    layer = spoil(copy, "gamma", lambda values: values.astype("int16"))
    with refused(ModelError, f"gamma of layer {layer} is int16, expected floating point"):
        load_unet(copy)


def test_a_layer_without_its_bias(copy):
    with h5py.File(copy, "r+") as file:
        names = [n for n in file["model_weights"] if n.startswith("conv2d")]
        attributes = file["model_weights"][names[0]].attrs
        attributes["weight_names"] = attributes["weight_names"][:1]
    with refused(ModelError, f"layer {names[0]} holds kernel; u-net", "expects kernel, bias"):
        load_unet(copy)


def test_a_weight_that_is_listed_but_absent(copy):
    with h5py.File(copy, "r+") as file:
        del file["model_weights"][next(n for n in file["model_weights"] if n.startswith("conv2d"))]
    with refused(ModelError, f"{copy} cannot be read", "damaged"):
        load_unet(copy)


def test_arguments_are_those_of_build(unet):
    with refused(ConfigError, "Did you mean 'u-net'?"):
        models.load_keras("unet", unet)
    with refused(ConfigError, "deepforest-2a needs months="):
        models.load_keras("deepforest-2a", unet)


def test_without_h5py(unet, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with refused(MissingExtraError, 'pip install "deepforest-xr[keras]"'):
        load_unet(unet)


# ---- what the graphs themselves rest on


@pytest.mark.parametrize(("name", "s2_branch"), PUBLISHED_COUNTS)
def test_graphs_have_the_published_number_of_weights(name, s2_branch):
    months = 7 if models.entry(name).is_two_branch else None
    arguments = {"bands": 10, "classes": 18, "months": months, "s2_branch": s2_branch}
    with keras.device("meta"):  # shapes alone
        built = keras_graphs.graph(name, **arguments)
    count = sum(int(np.prod(weight.shape)) for weight in built.trainable_weights)
    assert count == PUBLISHED_COUNTS[name, s2_branch]


def same_convolution(x, kernel, *, stride=1, dilation=1):
    """TensorFlow's `same` rule tap by tap: x (y, x, in), kernel (ky, kx, in, out)."""
    sides = [-(-side // stride) for side in x.shape[:2]]
    pads = []
    for side, taps, out in zip(x.shape[:2], kernel.shape[:2], sides, strict=True):
        total = max((out - 1) * stride + dilation * (taps - 1) + 1 - side, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)])
    result = np.zeros((*sides, kernel.shape[3]))
    for i, j in np.ndindex(kernel.shape[:2]):
        rows = dilation * i + stride * np.arange(sides[0])
        cols = dilation * j + stride * np.arange(sides[1])
        result += padded[np.ix_(rows, cols)] @ kernel[i, j]
    return result


@pytest.mark.parametrize(("side", "dilation"), [(6, 1), (6, 2), (7, 1), (3, 6)])
def test_keras_pads_a_convolution_as_tensorflow(side, dilation):
    rng = np.random.default_rng(2)
    x = layers.Input((12, 17, 2))
    model = keras.Model(x, keras_graphs.conv(x, 3, side, dilation_rate=dilation))
    kernel = rng.standard_normal((side, side, 2, 3))
    model.set_weights([kernel, np.zeros(3)])
    image = rng.standard_normal((12, 17, 2)).astype("float32")
    expected = same_convolution(image, kernel, dilation=dilation)
    np.testing.assert_allclose(model(image[None])[0].detach(), expected, atol=1e-4)


@pytest.mark.parametrize(("side", "stride"), [(6, 1), (6, 2), (2, 2)])
def test_the_transposed_convolution_is_the_gradient_of_the_plain_one(side, stride):
    # <C u, v> = <u, T v> for all u and v, with one kernel: HWIO of C is HWOI of T.
    rng = np.random.default_rng(3)
    x = layers.Input((5, 7, 2))
    enlarged = keras_graphs.up(x, 3) if side == 2 else keras_graphs.up6(x, 3, stride)
    model = keras.Model(x, enlarged)
    kernel = rng.standard_normal((side, side, 3, 2))
    model.set_weights([kernel, np.zeros(3)])
    v = rng.standard_normal((5, 7, 2)).astype("float32")
    transposed = model(v[None])[0].detach().numpy()
    assert transposed.shape == (5 * stride, 7 * stride, 3)
    for _ in range(5):
        u = rng.standard_normal(transposed.shape)
        plain = same_convolution(u, kernel, stride=stride)
        assert np.vdot(plain, v) == pytest.approx(np.vdot(u, transposed), abs=1e-3)


def test_the_resize_is_that_of_tensorflow_1():
    image = np.array([[0, 10, 20]], dtype="float32")[None, ..., None]
    larger = keras_graphs.ResizeBilinear((2, 6))(image)[0, ..., 0]
    np.testing.assert_allclose(larger, [[0, 5, 10, 15, 20, 20]] * 2)
