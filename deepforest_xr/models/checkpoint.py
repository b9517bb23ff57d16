"""Checkpoints: weights, and all that is needed to use them on a cube years later.

A checkpoint is a folder of three files: ``model.safetensors`` holds the weights,
``model.json`` what rebuilds the network and its inputs: bands, units, months, the
normalisation frozen at training, and the legend. Nothing is ever unpickled, and weights
whose checksum is not the recorded one are refused. ``item.json`` says the same to STAC
catalogs; it follows from the other two and is not read back.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deepforest_xr.atomic import staged
from deepforest_xr.errors import BandMismatchError, ChecksumError, ConfigError, ModelError
from deepforest_xr.legend import Legend, amazon13
from deepforest_xr.models.channels import S1_QUANTITY, S2_BANDS, complete_names, is_radar, unit
from deepforest_xr.models.registry import build, entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from deepforest_xr.models.network import Network

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
ITEM_FILE = "item.json"
FILES = (CARD_FILE, WEIGHTS_FILE, ITEM_FILE)

# What values of another kind than `Checkpoint.card` writes raise when they are used.
_MISMADE = (AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A trained network with its inputs and its legend; make one with `from_module`."""

    model: str
    """Name in the registry."""

    build_arguments: dict[str, Any]
    """Keyword arguments of `models.build`."""

    bands: tuple[str, ...]
    """All input channels in order, Sentinel-1 first (see `models.channel_names`)."""

    months: tuple[int, ...] | None
    """Calendar months of the Sentinel-1 series; None without Sentinel-1."""

    mean: tuple[float, ...]
    """Per channel, subtracted before the network; in `units`."""

    std: tuple[float, ...]
    """Per channel, divided by after the mean came off; same units."""

    temperature: float = 1.0
    """Logits are divided by it before the softmax, so that the confidence can be believed."""

    legend: Legend
    """Classes in the order of the network's outputs."""

    sha256: str
    """Of the weights file: identifies the weights."""

    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from; plain JSON values."""

    state_dict: Mapping[str, Tensor] = field(repr=False)
    """Weights and BatchNorm statistics, on the CPU."""

    def __post_init__(self) -> None:
        self._check_channels()
        self._check_normalisation()
        classes = self.build_arguments["classes"]
        if classes != len(self.legend.classes):
            raise ConfigError(
                f"{self.model} has {classes} classes, legend {self.legend.name!r} "
                f"{len(self.legend.classes)}: pass the legend it was trained with."
            )
        self._check_provenance()

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        bands: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        months: Sequence[int] | None = None,
        legend: Legend | None = None,
        temperature: float = 1.0,
        provenance: dict[str, Any] | None = None,
    ) -> Self:
        """Describe a network made by `models.build`, copying its weights as they are now.

        Parameters
        ----------
        module : nn.Module
            From `models.build`.
        bands : sequence of str
            Sentinel-2 bands, or all channels in the order of `models.channel_names`.
        mean, std : sequence of float
            One a channel, Sentinel-1 first; reflectance or dB.
        months : sequence of int, optional
            Calendar months of the Sentinel-1 series.
        legend : Legend, optional
            Classes of the outputs; the paper's 13 by default.
        temperature : float
            From `accuracy.temperature_scale`; 1 leaves the probabilities as they are.
        provenance : dict, optional
            Plain JSON values.

        Raises
        ------
        ModelError
            If `module` was not made by `models.build`.
        BandMismatchError, ConfigError
            If bands, months, normalisation or legend do not fit the network or each other.
        """
        arguments = getattr(module, "build_arguments", None)
        if not arguments:
            raise ModelError(
                f"{type(module).__name__} was not made by models.build, so it could not be "
                "rebuilt: pass such a network, not a wrapper of it."
            )
        weights = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}
        return cls(
            model=str(module.model_name),
            build_arguments=dict(arguments),
            bands=complete_names(bands, months),
            months=None if months is None else tuple(int(month) for month in months),
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
            temperature=float(temperature),
            legend=amazon13() if legend is None else legend,
            sha256=_digest(_serialise(weights)),
            provenance=dict(provenance or {}),
            state_dict=weights,
        )

    @property
    def identity(self) -> str:
        """SHA-256 of all that decides a map: weights, network, inputs, normalisation, legend."""
        free = {"library", "provenance"}
        card = {key: value for key, value in self.card().items() if key not in free}
        return _digest(json.dumps(card, sort_keys=True).encode())

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each channel before standardisation; sigma0 where the training cube said so."""
        # The cube gives its quantity with a remark: "sigma0, not terrain-corrected".
        quantity = str(self.cube_attrs.get("s1_quantity", S1_QUANTITY)).split(",")[0]
        return tuple(unit(name, quantity=quantity) for name in self.bands)

    @property
    def cube_attrs(self) -> dict[str, Any]:
        """Attributes of the cube that the training chips were cut from, as far as recorded."""
        chips = self.provenance.get("chips")
        cube = chips.get("cube") if isinstance(chips, dict) else None
        return cube if isinstance(cube, dict) else {}

    @property
    def parameters(self) -> int:
        """Number of weights that training changes; statistics of BatchNorm are not among them."""
        return parameter_count(self.model, self.build_arguments)

    def build(self) -> Network:
        """Build the network with these weights, in eval mode, on the CPU.

        Raises
        ------
        ModelError
            If the weights are not those of the network.
        """
        import torch

        weights = {key: tensor.clone() for key, tensor in self.state_dict.items()}
        try:
            with torch.device("meta"):  # no memory, no draw from the random generator
                module = build(self.model, **self.build_arguments)
            module.load_state_dict(weights, assign=True)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"weights {self.sha256[:12]} are not those of {self.model} "
                f"{self.build_arguments}: {reason}"
            ) from error
        return module.eval()

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder whole or not at all.

        Parameters
        ----------
        folder : path
            Made, with its parents.
        overwrite : bool
            Replace a checkpoint that is there. A folder with other files is never replaced.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        WriteError
            If the folder is taken or cannot be written.
        """
        from deepforest_xr.models.mlm import item_json

        folder = Path(folder)
        with staged(folder, overwrite=overwrite, parts=FILES) as partial:
            files = self.files()
            files[ITEM_FILE] = item_json(self, files)
            partial.mkdir()
            for name, content in files.items():
                (partial / name).write_bytes(content)
        return folder

    def files(self) -> dict[str, bytes]:
        """Give what makes up the checkpoint: weights and card, by file name."""
        weights = _serialise(self.state_dict)
        card = json.dumps(self.card() | {"sha256": _digest(weights)}, indent=2, allow_nan=False)
        return {WEIGHTS_FILE: weights, CARD_FILE: f"{card}\n".encode()}

    def require_channels(self, available: Sequence[str]) -> None:
        """Refuse a cube that lacks a channel; channels beyond those needed are no fault.

        Raises
        ------
        BandMismatchError
            Naming what is missing and what is there instead.
        """
        missing = [name for name in self.bands if name not in available]
        if missing:
            extra = [name for name in available if name not in self.bands]
            raise BandMismatchError(
                f"{self.model} needs {len(self.bands)} channels; missing: {', '.join(missing)}; "
                f"not used by it: {', '.join(extra) or 'none'}. Open the cube with its bands and "
                f"months={self.months}."
            )

    def card(self) -> dict[str, Any]:
        """Describe the checkpoint: the content of ``model.json``."""
        return {
            "format": FORMAT,
            "library": _library_version(),
            "model": self.model,
            "build_arguments": self.build_arguments,
            "bands": [
                {"name": name, "unit": its_unit}
                for name, its_unit in zip(self.bands, self.units, strict=True)
            ],
            "months": self.months,
            "mean": self.mean,
            "std": self.std,
            "temperature": self.temperature,
            "legend": self.legend.to_dict(),
            "provenance": self.provenance,
            "sha256": self.sha256,
        }

    def _check_channels(self) -> None:
        """Hold the channel names against the network's inputs."""
        if not all(isinstance(name, str) for name in self.bands):
            raise ConfigError(f"bands={self.bands} are not names, as in {S2_BANDS[0]!r}.")
        known, months = entry(self.model), self.months or ()
        expected, takes = self.build_arguments["bands"], ""
        if known.is_two_branch:
            if len(months) != self.build_arguments["months"]:
                raise BandMismatchError(
                    f"{self.model} was built for {self.build_arguments['months']} months, got "
                    f"months={months}: name as many."
                )
            takes = f" (vv and vh of {len(months)} months, {expected} bands of Sentinel-2)"
            expected += 2 * len(months)
        if len(self.bands) != expected:
            radar = sum(map(is_radar, self.bands))
            raise BandMismatchError(
                f"{self.model} takes {expected} channels{takes}, got {len(self.bands)} names "
                f"({radar} of Sentinel-1, months={self.months}): {', '.join(self.bands)}."
            )

    def _check_provenance(self) -> None:
        what: Any = self.provenance  # of any kind, if it comes from a card
        if not isinstance(what, dict):
            raise ConfigError(f"provenance is {type(what).__name__}, expected a dict.")
        try:
            json.dumps(what, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"provenance is not plain JSON ({error}): use str or float."
            ) from None

    def _check_normalisation(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != len(self.bands):
                raise ConfigError(
                    f"{name} has {len(values)} values for {len(self.bands)} channels "
                    f"({', '.join(self.bands)}): give one a channel, Sentinel-1 first."
                )
            for channel, value in zip(self.bands, values, strict=True):
                if not math.isfinite(value) or (name == "std" and value <= 0):
                    raise ConfigError(
                        f"{name} of {channel} is {value}: take finite statistics, std above 0."
                    )
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"temperature={self.temperature} is not a positive number: fit it with "
                "accuracy.temperature_scale, or leave it at 1."
            )


def load(folder: str | Path) -> Checkpoint:
    """Read a checkpoint and verify its weights.

    Parameters
    ----------
    folder : path
        Written by `Checkpoint.save`.

    Raises
    ------
    ModelError
        If a file is missing or cannot be understood.
    ChecksumError
        If the weights are not those that were saved.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    folder = Path(folder)
    try:
        card_text = (folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise ModelError(
            f"{folder} is not a checkpoint: {error.filename}: {error.strerror}; expected a folder "
            f"with {CARD_FILE} and {WEIGHTS_FILE}."
        ) from error
    card = parse_card(card_text, folder / CARD_FILE)
    digest = _digest(weights)
    if card.get("sha256") != digest:
        raise ChecksumError(
            f"{folder / WEIGHTS_FILE}: sha256 {digest}, expected {card.get('sha256')}: the file "
            "was changed or cut short; copy or download the checkpoint again."
        )
    try:
        return _from_card(card, safetensors.torch.load(weights), digest)
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        ModelError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"{folder / CARD_FILE} cannot be used ({type(error).__name__}: {error}); save the "
            "checkpoint again."
        ) from error


def _from_card(card: dict[str, Any], weights: dict[str, Tensor], digest: str) -> Checkpoint:
    months = card["months"]
    return Checkpoint(
        model=card["model"],
        build_arguments=card["build_arguments"],
        bands=tuple(band["name"] for band in card["bands"]),
        months=None if months is None else tuple(months),
        mean=tuple(card["mean"]),
        std=tuple(card["std"]),
        temperature=card.get("temperature", 1.0),  # not in the first checkpoints
        legend=Legend.from_dict(card["legend"]),
        sha256=digest,
        provenance=card["provenance"],
        state_dict=weights,
    )


def parse_card(text: str, where: str | Path) -> dict[str, Any]:
    """Read the content of ``model.json`` as far as its format.

    Parameters
    ----------
    text : str
        JSON.
    where : str or Path
        For messages.

    Raises
    ------
    ModelError
        If it is no JSON, or of a format that this version does not know.
    """
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{where} is not JSON ({error}); copy the checkpoint again.") from error
    found = card.get("format") if isinstance(card, dict) else None
    if found != FORMAT:
        raise ModelError(
            f"{where} has format {found!r}, this version reads {FORMAT}: update deepforest-xr, or "
            "save the checkpoint again."
        )
    result: dict[str, Any] = card
    return result


def parameter_count(name: str, build_arguments: Mapping[str, Any]) -> int:
    """Count the trainable weights of a network without making them.

    Parameters
    ----------
    name : str
        One of `models.names`.
    build_arguments : mapping
        Keyword arguments of `models.build`.

    Raises
    ------
    ConfigError
        If there is no such network.
    """
    import torch

    with torch.device("meta"):
        return sum(weight.numel() for weight in build(name, **build_arguments).parameters())


def _serialise(weights: Mapping[str, Tensor]) -> bytes:
    """Bytes of the weights file; equal weights give equal bytes."""
    import safetensors.torch

    return safetensors.torch.save(dict(weights))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _library_version() -> str:
    try:
        return version("deepforest-xr")
    except PackageNotFoundError:
        return "unknown"
