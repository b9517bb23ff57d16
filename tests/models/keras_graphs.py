"""The published networks as Keras graphs, written from their description alone.

They are what `deepforest_xr.models` is compared with, so nothing here looks at the
package: layers, names and order of creation follow the published Keras 2 definitions.
They return logits; the two-branch networks return (Sentinel-1, Sentinel-2, fused).

Keras runs on torch here, whose arithmetic differs from TensorFlow's in two places. Both
are written out below instead: TensorFlow 1's `resize_bilinear`, and the `same` rule of a
6 x 6 transposed convolution, which older Keras cannot express on torch at stride 1.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"
os.environ["KERAS_HOME"] = os.devnull  # it reads no settings there and leaves none

import keras
import numpy as np
from keras import layers, ops

keras.config.set_image_data_format("channels_last")

EPSILON = 1e-3
BLANK = {"kernel_initializer": "zeros"}  # drawing weights takes long, and `randomize` replaces them


def hard_sigmoid(x):
    """Keras 2's: slope 0.2. Keras 3's own has slope 1/6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


class ResizeBilinear(layers.Layer):
    """TensorFlow 1 `resize_bilinear`: align_corners off, no half-pixel centres."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])

    def call(self, x):
        for axis, length in zip((1, 2), self.size, strict=True):
            at = np.arange(length, dtype="float32") * np.float32(x.shape[axis] / length)
            low = at.astype("int32")
            high = np.minimum(low + 1, x.shape[axis] - 1)
            share = (at - low.astype("float32")).reshape([-1 if a == axis else 1 for a in range(4)])
            before, after = ops.take(x, low, axis=axis), ops.take(x, high, axis=axis)
            x = before + (after - before) * ops.convert_to_tensor(share)
        return x

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def conv(x, filters, kernel=1, **kwargs):
    return layers.Conv2D(filters, kernel, padding="same", **BLANK, **kwargs)(x)


def up(x, filters, times=1):
    for _ in range(times):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same", **BLANK)(x)
    return x


def up6(x, filters, stride):
    """Transposed 6 x 6, `same`: the full output, cropped as TensorFlow does."""
    full = layers.Conv2DTranspose(filters, 6, strides=stride, padding="valid", **BLANK)(x)
    crop = {1: (2, 3), 2: (2, 2)}[stride]
    return layers.Cropping2D((crop, crop))(full)


def dropout(x):
    return layers.Dropout(0.5)(x)


def batch_norm(x, momentum=0.99, name=None):
    return layers.BatchNormalization(momentum=momentum, epsilon=EPSILON, name=name)(x)


def relu(x):
    return layers.Activation("relu")(x)


def conv_lstm(sequence, filters, activation="tanh", go_backwards=True, rate=0.0):
    return layers.ConvLSTM2D(
        filters,
        3,
        padding="same",
        activation=activation,
        recurrent_activation=hard_sigmoid,
        go_backwards=go_backwards,
        dropout=rate,
        recurrent_dropout=rate,
        recurrent_initializer="zeros",
        **BLANK,
    )(sequence)


def pair(first, second):
    """Two maps as a sequence of two steps."""
    steps = [layers.Reshape((1, *x.shape[1:]))(x) for x in (first, second)]
    return layers.Concatenate(axis=1)(steps)


def block(x, filters, stage, letter, *, stride=None, dilation=1):
    """A bottleneck: conv_block where `stride` is given, else identity_block."""
    names = f"{stage}{letter}_branch"
    f1, f2, f3 = filters

    def unit(y, f, kernel, part, **kwargs):
        y = conv(y, f, kernel, name=f"res{names}{part}", **kwargs)
        return batch_norm(y, name=f"bn{names}{part}")

    main = relu(unit(x, f1, 1, "2a", strides=stride or 1))
    main = relu(unit(main, f2, 3, "2b", dilation_rate=dilation))
    main = unit(main, f3, 1, "2c")
    shortcut = x if stride is None else unit(x, f3, 1, "1", strides=stride)
    return relu(layers.Add()([main, shortcut]))


def stage(x, filters, number, blocks, *, stride=2, dilation=1):
    x = block(x, filters, number, "a", stride=stride, dilation=dilation)
    for letter in "bcdef"[: blocks - 1]:
        x = block(x, filters, number, letter, dilation=dilation)
    return x


def stages_1_to_3(x):
    x = block(x, (64, 64, 256), 1, "a", stride=1)
    x = conv(x, 64, 7, name="conv1")
    x = relu(batch_norm(x, name="bn_conv1"))
    x = layers.MaxPooling2D(3, strides=2, padding="valid")(x)
    x = stage(x, (64, 64, 256), 2, 3)
    return stage(x, (128, 128, 512), 3, 4)


def stage_4(x):
    return stage(x, (256, 256, 1024), 4, 6)


def stage_5(x):
    return stage(x, (512, 512, 2048), 5, 3)


def deepforest_1a(x, classes):
    x16 = stage_4(stages_1_to_3(x))
    x8 = stage_5(x16)
    skip_a = dropout(up(x16, 256, 2))
    skip_b = dropout(up(x8, 256, 3))
    y = conv_lstm(pair(skip_a, skip_b), 128)
    y = conv(y, 256, 3, activation="relu")
    return conv(up(y, 128, 2), classes)


def to_conv_lstm_2(x):
    """DeepForest-1b up to its second ConvLSTM, which 1c shares."""
    x32 = stages_1_to_3(x)
    x16 = stage_4(x32)
    x8 = stage_5(x16)
    skip_a = dropout(up(x32, 256))
    skip_b = dropout(up(x16, 256, 2))
    y = conv_lstm(pair(skip_a, skip_b), 128)
    y = conv(y, 256, 3, activation="relu")
    m = dropout(up(y, 128))
    skip_c = dropout(up(x8, 128, 4))
    return conv_lstm(pair(m, skip_c), 128)


def features_1b(x):
    y = conv(to_conv_lstm_2(x), 128, 3, activation="relu")
    return up(y, 128)


def deepforest_1b(x, classes):
    return conv(features_1b(x), classes)


def deepforest_1c(x, classes):
    y = to_conv_lstm_2(x)
    parts = [conv(y, classes)] + [conv(y, 128, 3, dilation_rate=rate) for rate in (6, 12, 18)]
    y = conv(layers.Concatenate()(parts), classes)
    return ResizeBilinear(x.shape[1:3])(y)


def features_released(x):
    """The Sentinel-2 branch of 2b as the published code trains it: stage 5 reads skip A."""
    skip_a = dropout(up(stage_4(stages_1_to_3(x)), 256, 2))
    skip_b = relu(batch_norm(dropout(up(stage_5(skip_a), 256))))
    y = conv_lstm(pair(skip_a, skip_b), 128)
    y = conv(y, 256, 3, activation="relu")
    return up(up(y, 128), 64)


def u_net(x, classes):
    filters = (8, 32, 32, 64, 64, 128)
    maps = []
    for n in filters:
        if maps:
            x = layers.MaxPooling2D(2)(x)
        x = relu(batch_norm(conv(x, n, 6), momentum=0.9))
        x = relu(batch_norm(conv(x, n, 6, dilation_rate=2), momentum=0.9))
        maps.append(x)
    for n in (32, 32, 64, 64, 128):
        x = layers.Concatenate()([x, maps.pop()])
        x = up6(conv(x, n, 6, activation="relu"), n, 2)
    return up6(x, classes, 1)


def deeplab(x, classes):
    x4 = stage(stages_1_to_3(x), (256, 256, 1024), 4, 6, stride=1, dilation=2)
    branches = [
        dropout(stage(x4, (512, 512, 2048), number, 3, stride=1, dilation=rate))
        for number, rate in ((5, 6), (6, 12), (7, 18))
    ]
    y = conv(layers.Concatenate()([conv(x4, classes), *branches]), classes)
    return ResizeBilinear(x.shape[1:3])(y)


ONE_BRANCH = {
    "u-net": u_net,
    "deeplab": deeplab,
    "deepforest-1a": deepforest_1a,
    "deepforest-1b": deepforest_1b,
    "deepforest-1c": deepforest_1c,
}


def two_branches(name, s1, s2, classes, s2_branch):
    """Sentinel-1, Sentinel-2 and fused logits of DeepForest-2a or 2b."""
    s = conv_lstm(s1, 64, "relu", go_backwards=False, rate=0.2)
    if name == "deepforest-2a":
        features, head = u_net(s2, classes), "Unet_output"
    else:
        branch = features_released if s2_branch == "released" else features_1b
        features, head = branch(s2), "M2_output"
    m1 = conv(s, classes, name="M1_output")
    m2 = conv(features, classes, name=head)
    fused = conv(layers.Concatenate()([features, s]), classes, name="Comb_output")
    return [m1, m2, fused]


def graph(name, *, bands, classes, months=None, s2_branch=None, size=(64, 96)):
    """A network over chips of `size` pixels: Keras' ConvLSTM needs the size beforehand.

    Inputs are (y, x, band); for two branches (month, y, x, polarisation) comes before it.
    """
    s2 = layers.Input((*size, bands))
    if months is None:
        return keras.Model(s2, ONE_BRANCH[name](s2, classes))
    s1 = layers.Input((months, *size, 2))
    return keras.Model([s1, s2], two_branches(name, s1, s2, classes, s2_branch))


def _spread(layer):
    """Standard deviations (kernel, recurrent kernel) that keep what passes through O(1)."""
    height, width, *channels = layer.kernel.shape if hasattr(layer, "kernel") else (1, 1, 1, 1)
    if isinstance(layer, layers.Conv2DTranspose):
        taps = height * width / np.prod(layer.strides)
        return np.sqrt(1 / (taps * channels[1])), None
    if isinstance(layer, layers.ConvLSTM2D):
        height, width, inside, _ = layer.cell.kernel.shape
        return np.sqrt(1 / (height * width * inside)), 0.7 / np.sqrt(9 * layer.filters)
    return np.sqrt(2 / (height * width * channels[0])), None


def randomize(model, seed=0):
    """Give every weight a random value, so that no swap of two of them goes unseen."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        kernel, recurrent = _spread(layer)
        draw = {
            "kernel": lambda shape, s=kernel: s * rng.standard_normal(shape, dtype="float32"),
            "recurrent_kernel": lambda shape, s=recurrent: s * rng.standard_normal(shape),
            "bias": lambda shape: rng.normal(0, 0.3, shape),
            "gamma": lambda shape: rng.uniform(0.4, 0.9, shape),
            "beta": lambda shape: rng.normal(0, 0.3, shape),
            "moving_mean": lambda shape: rng.normal(0, 0.3, shape),
            "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
        }
        layer.set_weights([draw[w.name](w.shape).astype("float32") for w in layer.weights])
    return model
