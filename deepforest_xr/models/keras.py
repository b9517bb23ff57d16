"""Weights of the published Keras models: a legacy ``.h5`` file to a network of this library.

The file is read with h5py alone: Keras is not needed, and nothing in the file is executed
or unpickled. A file that does not fit is refused whole, so that no network is ever
returned half loaded. Layers are paired in two ways:

- by name, where the published code named them: ``res3b_branch2a`` is ``stage3.b.branch2a``,
  ``bn3b_branch2a`` its BatchNorm, ``M1_output`` the Sentinel-1 head, and so on;
- by type and order for all others, which Keras numbers as they are created, from wherever
  the process stood. Here the networks' order of registration is relied upon: within a
  type, it is the published order of creation.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepforest_xr.errors import BandMismatchError, MissingExtraError, ModelError
from deepforest_xr.models.registry import build, entry, names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deepforest_xr.models.network import Network

# Weights of a layer: Keras' name to ours, by the type's name in the file.
_KERNEL_AND_BIAS = {"kernel": "weight", "bias": "bias"}
_WEIGHTS = {
    "conv2d": _KERNEL_AND_BIAS,
    "conv2d_transpose": _KERNEL_AND_BIAS,
    "conv_lstm2d": {name: name for name in ("kernel", "recurrent_kernel", "bias")},
    "batch_normalization": {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
}

# HWIO to OIHW, and a transposed HWOI to IOHW. No flip: both libraries correlate, and define
# the transposed convolution as the gradient of that.
_TO_TORCH = (3, 2, 0, 1)
_TO_KERAS = (2, 3, 1, 0)

_NUMBERED = re.compile(rf"({'|'.join(_WEIGHTS)}|conv_lst_m2d)(?:_(\d+))?")
_ALIASES = {"conv_lst_m2d": "conv_lstm2d", "Unet_output": "M2_output"}  # Keras 2; DeepForest-2a

_BLOCK = re.compile(r"(?:^|\.)stage(\d)\.([a-z])\.(branch|bn)(2[abc]|1)$")
_STEM = re.compile(r"(?:^|\.)encoder\.((?:bn_)?conv1)$")
_HEADS = {"s1_head": "M1_output", "s2_branch.head": "M2_output", "fused_head": "Comb_output"}

_SHOWN = 4  # differences that one line of an error can carry

# What h5py raises, and what follows from an object of another type than a whole file has there.
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class _Slot:
    """A layer of our network."""

    path: str
    """Where it is in the network."""

    kind: str
    """Key of `_WEIGHTS`."""

    label: str
    """Published name, or the kind where Keras numbers."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the file that has weights."""

    name: str
    """As the file spells it."""

    label: str
    """Published name, or the kind where Keras numbers."""

    number: int
    """Keras' number, which orders layers of a kind."""

    weights: Mapping[str, Any]
    """HDF5 data sets by Keras' name of the weight."""


def load_keras(
    name: str,
    path: str | Path,
    *,
    bands: int = 10,
    classes: int = 13,
    months: int | None = None,
    s2_branch: str | None = None,
) -> Network:
    """Build a network with the weights of a Keras file.

    Parameters
    ----------
    name : str
        One of `names`.
    path : path
        Legacy HDF5 file: written by ``model.save("x.h5")`` of Keras 2 or 3, or by
        ``save_weights("x.h5")`` of Keras 2.
    bands, classes : int
        Channels in and out of the model that was saved, as for `build`.
    months : int, optional
        Length of the Sentinel-1 series, as for `build`. No weight depends on it.
    s2_branch : str, optional
        Variant of the Sentinel-2 branch, as for `build`.

    Returns
    -------
    nn.Module, in eval mode
        As `build` returns it, float32, on the CPU. It gives logits, where the published
        models end in a softmax (the U-Net in a sigmoid).

    Raises
    ------
    ModelError
        If the file is missing, damaged, in another format or of another model, or if a
        weight is not finite.
    BandMismatchError
        If the model was saved with another number of bands.
    ConfigError
        If the name is unknown or an argument does not belong to the network.
    MissingExtraError
        If h5py is not installed.

    References
    ----------
    Keras, ``legacy_h5_format``: the attributes ``layer_names`` and ``weight_names``.
    """
    network = _blank(name, bands=bands, classes=classes, months=months, s2_branch=s2_branch)
    path = Path(path)
    h5py = _h5py()
    _check_format(path, h5py)
    try:
        with h5py.File(path, "r") as file:
            pairs = _pair(network, list(_layers(file, path)), path)
            _check_shapes(network, pairs, path)
            state = _state(pairs, path)
    except _DAMAGE as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise ModelError(
            f"{path} cannot be read ({reason}): it is cut short or damaged; copy it again."
        ) from error
    network.load_state_dict(state, assign=True)
    return network.eval()


def _blank(name: str, **arguments: Any) -> Network:
    """Build a network without memory for its weights."""
    import torch

    with torch.device("meta"):
        return build(name, **arguments)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            'Keras files need h5py, which is not installed: pip install "deepforest-xr[keras]"'
        ) from error
    return h5py


def _check_format(path: Path, h5py: Any) -> None:
    """Refuse what is no HDF5 file."""
    if not path.is_file():
        raise ModelError(f"{path} is not a file: give the path of a Keras model saved as .h5.")
    if h5py.is_hdf5(path):
        return
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    what = "a .keras archive" if is_zip else "not an HDF5 file"
    raise ModelError(
        f'{path} is {what}, expected legacy HDF5: save it in Keras by model.save("x.h5").'
    )


def _layers(file: Any, path: Path) -> Iterator[_Layer]:
    """List the layers that have weights, in the file's order, which is not that of creation."""
    root = file.get("model_weights", file)
    layer_names = _attribute(root, "layer_names")
    if not layer_names:
        raise ModelError(
            f"{path} has no layer_names, so it is not in Keras' legacy layout (save_weights of "
            'Keras 3 writes another one): save the whole model in Keras by model.save("x.h5").'
        )
    for name in layer_names:
        paths = _attribute(root[name], "weight_names")
        if not paths:  # an activation, a dropout ...
            continue
        numbered = _NUMBERED.fullmatch(name)
        label, number = numbered.groups() if numbered else (name, None)
        # "conv2d_7/kernel:0" in Keras 2, "conv_lstm2d/conv_lstm_cell/kernel" in Keras 3.
        weights = {part.rsplit("/")[-1].split(":")[0]: root[name][part] for part in paths}
        yield _Layer(name, _ALIASES.get(label, label), int(number or -1), weights)


def _attribute(group: Any, name: str) -> list[str]:
    """Read a list of names, which Keras splits into name0, name1, ... where it is long."""
    chunks = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(chunks)}" in group.attrs:
        chunks.append(group.attrs[f"{name}{len(chunks)}"])
    return [
        value.decode() if isinstance(value, bytes) else str(value)
        for chunk in chunks
        for value in chunk
    ]


def _slots(network: nn.Module) -> list[_Slot]:
    """List the layers that have weights, in the order of their registration."""
    from torch import nn

    from deepforest_xr.models.blocks import ConvLSTM

    kinds: dict[type[nn.Module], str] = {
        nn.Conv2d: "conv2d",
        nn.ConvTranspose2d: "conv2d_transpose",
        ConvLSTM: "conv_lstm2d",
        nn.BatchNorm2d: "batch_normalization",
    }
    return [
        _Slot(path, kind, _published_name(path) or kind)
        for path, module in network.named_modules()
        for known, kind in kinds.items()
        if isinstance(module, known)
    ]


def _published_name(path: str) -> str | None:
    """Name of a layer in the published code, None where Keras numbers it."""
    if block := _BLOCK.search(path):
        stage, letter, what, part = block.groups()
        return f"{'bn' if what == 'bn' else 'res'}{stage}{letter}_branch{part}"
    if stem := _STEM.search(path):
        return stem[1]
    return _HEADS.get(path)


def _pair(network: Network, layers: list[_Layer], path: Path) -> list[tuple[_Slot, _Layer]]:
    """Find the file's layer for each of ours.

    Raises
    ------
    ModelError
        If the layers, their names or their weights are not the network's.
    """
    slots = _slots(network)
    found = Counter(layer.label for layer in layers)
    if found != Counter(slot.label for slot in slots):
        raise _another_model(network, slots, found, path)
    in_order = sorted(layers, key=lambda layer: layer.number, reverse=True)
    queues: dict[str, list[_Layer]] = {}
    for layer in in_order:
        queues.setdefault(layer.label, []).append(layer)
    pairs = [(slot, queues[slot.label].pop()) for slot in slots]
    for slot, layer in pairs:
        if layer.weights.keys() != _WEIGHTS[slot.kind].keys():
            raise ModelError(
                f"{path}: layer {layer.name} holds {', '.join(layer.weights)}; {_title(network)} "
                f"expects {', '.join(_WEIGHTS[slot.kind])}: load the model it was saved from."
            )
    return pairs


def _another_model(
    network: Network, slots: list[_Slot], found: Counter[str], path: Path
) -> ModelError:
    """Say how the layers differ, and which network has them."""
    expected = Counter(slot.label for slot in slots)
    labels = sorted(label for label in found | expected if found[label] != expected[label])
    # Counts of numbered layers say most, so they come first.
    labels.sort(key=lambda label: label not in _WEIGHTS)
    shown = [f"{found[label]} {label} (not {expected[label]})" for label in labels[:_SHOWN]]
    more = f" and {len(labels) - _SHOWN} other differences" if len(labels) > _SHOWN else ""
    fitting = _network_with(found)
    return ModelError(
        f"{path} holds {found.total()} layers with weights, {_title(network)} has {len(slots)}; "
        f"the file has {', '.join(shown)}{more}: "
        + (f"these are the layers of {fitting}." if fitting else "no network here has its layers.")
    )


def _network_with(found: Counter[str]) -> str | None:
    """Find a registered network by its layers."""
    for name in names():
        known = entry(name)
        for s2_branch in (None, *known.s2_branches):
            months = 1 if known.is_two_branch else None
            network = _blank(name, months=months, s2_branch=s2_branch)
            if Counter(slot.label for slot in _slots(network)) == found:
                return name + (f" with s2_branch={s2_branch!r}" if s2_branch else "")
    return None


def _check_shapes(network: Network, pairs: list[tuple[_Slot, _Layer]], path: Path) -> None:
    """Compare all shapes before a weight is read.

    Raises
    ------
    BandMismatchError
        If the model was saved with another number of bands.
    ModelError
        If another shape differs.
    """
    ours = network.state_dict()
    for slot, layer in pairs:
        for theirs, own in _WEIGHTS[slot.kind].items():
            expected = tuple(ours[f"{slot.path}.{own}"].shape)
            if len(expected) == 4:
                expected = tuple(expected[axis] for axis in _TO_KERAS)
            shape = tuple(layer.weights[theirs].shape)
            if shape == expected:
                continue
            argument = _argument(network, slot, shape, expected)
            wrong = BandMismatchError if argument.startswith("bands") else ModelError
            hint = f"build it with {argument}" if argument else "load the model it was saved from"
            raise wrong(
                f"{path}: {theirs} of layer {layer.name} has shape {shape}, {_title(network)} "
                f"expects {expected}: {hint}."
            )


def _argument(
    network: Network, slot: _Slot, shape: tuple[int, ...], expected: tuple[int, ...]
) -> str:
    """Say which argument of `load_keras` makes the shapes agree; empty where none does."""
    if len(shape) != 4 or len(expected) != 4 or shape[:2] != expected[:2]:
        return ""
    is_transposed = slot.kind == "conv2d_transpose"  # its kernel is HWOI
    (inputs, outputs), (own_inputs, own_outputs) = (
        kernel[:1:-1] if is_transposed else kernel[2:] for kernel in (shape, expected)
    )
    if slot.kind == "conv2d" and outputs == own_outputs and own_inputs == network.bands:
        return f"bands={inputs}"
    if inputs == own_inputs and own_outputs == network.classes:
        return f"classes={outputs}"
    return ""


def _state(pairs: list[tuple[_Slot, _Layer]], path: Path) -> dict[str, Tensor]:
    """Read all weights under our names and in torch's layout."""
    import torch

    state = {}
    for slot, layer in pairs:
        for theirs, own in _WEIGHTS[slot.kind].items():
            values = _finite(layer.weights[theirs], f"{path}: {theirs} of layer {layer.name}")
            if values.ndim == 4:
                values = np.ascontiguousarray(values.transpose(_TO_TORCH))
            state[f"{slot.path}.{own}"] = torch.from_numpy(values)
        if slot.kind == "batch_normalization":
            # A counter that torch alone keeps, read only where momentum is None.
            state[f"{slot.path}.num_batches_tracked"] = torch.tensor(0)
    return state


def _finite(dataset: Any, what: str) -> NDArray[np.float32]:
    """Read a data set as float32; what is not a number is refused."""
    if dataset.dtype.kind != "f":
        raise ModelError(
            f"{what} is {dataset.dtype}, expected floating point: save the model again."
        )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, refused below
        values: NDArray[np.float32] = dataset[()].astype(np.float32)
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ModelError(
            f"{what} has {bad} of {values.size} values that are not finite: its training diverged "
            "or the file is damaged; take weights saved earlier."
        )
    return values


def _title(network: Network) -> str:
    """Name a network with the arguments that set it apart."""
    chosen = {key: value for key, value in network.build_arguments.items() if value is not None}
    return f"{network.model_name} ({', '.join(f'{k}={v!r}' for k, v in chosen.items())})"
