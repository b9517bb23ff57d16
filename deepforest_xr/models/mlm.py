"""A STAC item that explains a checkpoint, by the Machine Learning Model extension (MLM).

What a program needs that has never heard of this library: which bands in which order and
unit, how they are standardised, the shapes that go in and come out, the classes and their
colours, and which file holds the weights. Everything follows from the checkpoint, so the
item of equal checkpoints is equal, byte for byte; links to files are relative, so that the
folder can be moved.

A checkpoint knows no area, so the item has no geometry. Its time is the period of the
training scenes; where that is not recorded it is all time, which MLM's best practices give
as the way to say "unknown".
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from deepforest_xr.models.channels import is_radar
from deepforest_xr.models.checkpoint import CARD_FILE, WEIGHTS_FILE
from deepforest_xr.models.registry import entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pystac
    from pystac.extensions.mlm import ModelInput, ModelOutput

    from deepforest_xr.models.checkpoint import Checkpoint

DOI = "10.3390/rs14195000"
CITATION = (
    "Cherif, M., Hell, M., Brandmeier, M. (2022): DeepForest: Novel Deep Learning Models for Land "
    "Use and Land Cover Classification Using Multi-Temporal and -Modal Sentinel Data of the "
    "Amazon Basin. Remote Sensing 14(19), 5000."
)
ANY_TIME = (
    dt.datetime(1900, 1, 1, tzinfo=dt.UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
)
SHA2_256 = "1220"
"""Prefix of a multihash: the function is SHA-256, the digest has 32 bytes."""


def to_item(checkpoint: Checkpoint, files: Mapping[str, bytes] | None = None) -> pystac.Item:
    """Describe a checkpoint as a STAC item with the MLM extension.

    Parameters
    ----------
    checkpoint : Checkpoint
        Any network of this library.
    files : mapping of file name to content, optional
        What lies beside the item, as `Checkpoint.files` gives it.

    Returns
    -------
    pystac.Item
        Without a self link; hrefs are relative to the checkpoint's folder.

    References
    ----------
    STAC 1.1; extensions MLM 1.4.0, file 2.1.0, scientific 1.0.0.
    """
    import pystac
    from pystac.extensions.mlm import MLMExtension, TaskType
    from pystac.extensions.scientific import Publication, ScientificExtension

    known = entry(checkpoint.model)
    start, end = _period(checkpoint.cube_attrs.get("s2_period"))
    item = pystac.Item(
        id=f"{checkpoint.model}-{checkpoint.identity[:12]}",
        geometry=None,
        bbox=None,
        datetime=None,
        start_datetime=start,
        end_datetime=end,
        properties={"description": _summary(checkpoint), "bands": _bands(checkpoint)},
    )
    mlm = MLMExtension.ext(item, add_if_missing=True)
    mlm.apply(
        name=checkpoint.model,
        architecture=known.class_name,
        tasks=[TaskType.SEMANTIC_SEGMENTATION],
        input=_inputs(checkpoint),
        output=[_output(checkpoint)],
        framework="PyTorch",
        framework_version=_torch_version(),
        total_parameters=checkpoint.parameters,
    )
    _add_training(item, checkpoint)
    _add_assets(item, checkpoint.files() if files is None else files)
    ScientificExtension.ext(item, add_if_missing=True).publications = [Publication(DOI, CITATION)]
    return item


def item_json(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> bytes:
    """Write `to_item` as JSON: the content of ``item.json``."""
    item = to_item(checkpoint, files).to_dict(include_self_link=False, transform_hrefs=False)
    return (json.dumps(item, indent=2, allow_nan=False) + "\n").encode()


def _summary(checkpoint: Checkpoint) -> str:
    known, legend = entry(checkpoint.model), checkpoint.legend.name
    scenes = " Trained on simulated scenes." if checkpoint.cube_attrs.get("simulated") else ""
    return f"{known.summary}. Land cover, legend {legend}.{scenes}"


def _bands(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Bands of STAC 1.1: what the names in ``mlm:input`` refer to."""
    return [
        {
            "name": name,
            "description": _describe(name, unit),
            "unit": "dB" if is_radar(name) else "1",
            "data_type": "float32",
        }
        for name, unit in zip(checkpoint.bands, checkpoint.units, strict=True)
    ]


def _describe(name: str, unit: str) -> str:
    if not is_radar(name):
        return f"Sentinel-2 {name}, surface reflectance, 1 = 100 %"
    polarization, month = name.split("_")
    return f"Sentinel-1 {polarization.upper()}, mean of {calendar.month_name[int(month)]}, {unit}"


def _inputs(checkpoint: Checkpoint) -> list[ModelInput]:
    """One input of all channels, or Sentinel-2 and the Sentinel-1 series apart."""
    if not entry(checkpoint.model).is_two_branch:
        count = len(checkpoint.bands)
        return [_input(checkpoint, "x", slice(0, count), {"channel": count})]
    months = len(checkpoint.months or ())
    count = len(checkpoint.bands) - 2 * months
    return [
        _input(checkpoint, "s2", slice(2 * months, None), {"channel": count}),
        _input(checkpoint, "s1", slice(0, 2 * months), {"time": months, "channel": 2}),
    ]


def _input(checkpoint: Checkpoint, name: str, channels: slice, sizes: dict[str, int]) -> ModelInput:
    from pystac.extensions.mlm import InputStructure, ModelInput, ValueScaling, ValueScalingType
    from pystac.extensions.raster import DataType

    described = ModelInput.create(
        name=name,
        bands=list(checkpoint.bands[channels]),
        input=InputStructure.create(
            shape=[-1, *sizes.values(), -1, -1],
            dim_order=["batch", *sizes, "height", "width"],
            data_type=DataType.FLOAT32,
        ),
        description="Standardised by value_scaling, missing values then 0; height and width are "
        "multiples of 32 pixels." + (" Bands run through time, then channel." * ("time" in sizes)),
    )
    moments = zip(checkpoint.mean[channels], checkpoint.std[channels], strict=True)
    # pystac takes one scaling for all bands where the extension has a list, one a band.
    described.properties["value_scaling"] = [
        ValueScaling.create(ValueScalingType.Z_SCORE, mean=mean, stddev=std).to_dict()
        for mean, std in moments
    ]
    return described


def _output(checkpoint: Checkpoint) -> ModelOutput:
    from pystac.extensions.classification import Classification
    from pystac.extensions.mlm import ModelOutput, ResultStructure, TaskType
    from pystac.extensions.raster import DataType

    return ModelOutput.create(
        name="logits",
        tasks=[TaskType.SEMANTIC_SEGMENTATION],
        result=ResultStructure.create(
            shape=[-1, len(checkpoint.legend.classes), -1, -1],
            dim_order=["batch", "class", "height", "width"],
            data_type=DataType.FLOAT32,
        ),
        description="Logits: softmax over class gives probabilities. Classes are listed in the "
        "order of the channels; their values are the codes in maps, where 0 is no data.",
        classes=[Classification(properties) for properties in checkpoint.legend.classification()],
    )


def _add_training(item: pystac.Item, checkpoint: Checkpoint) -> None:
    """Settings of a run of this library, which starts from random weights; else nothing."""
    from pystac.extensions.mlm import PRETRAINED_SOURCE_PROP, Hyperparameters, MLMExtension

    settings = checkpoint.provenance.get("settings")
    if "chips" not in checkpoint.provenance or not isinstance(settings, dict):
        # pystac wrote null, which claims a training from scratch.
        item.properties.pop(PRETRAINED_SOURCE_PROP, None)
        return
    mlm = MLMExtension.ext(item)
    mlm.pretrained = False
    plain = {key: value for key, value in settings.items() if re.fullmatch(r"[\w.-]+", key, re.A)}
    mlm.hyperparameters = Hyperparameters.create(**plain) if plain else None


def _add_assets(item: pystac.Item, files: Mapping[str, bytes]) -> None:
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.mlm import AssetGeneralMLMExtension

    weights = pystac.Asset(
        f"./{WEIGHTS_FILE}",
        title="Weights",
        media_type="application/octet-stream; framework=pytorch",
        roles=["mlm:model", "mlm:weights", "data"],
        # STAC 1.1 allows bands in the properties only where an asset refers to them.
        extra_fields={"bands": [{"name": band["name"]} for band in item.properties["bands"]]},
    )
    card = pystac.Asset(
        f"./{CARD_FILE}",
        title="Network, inputs, normalisation, legend and provenance",
        media_type=pystac.MediaType.JSON,
        roles=["metadata"],
    )
    item.add_asset("weights", weights)
    item.add_asset("card", card)
    AssetGeneralMLMExtension.ext(weights).apply(artifact_type="safetensors.torch.save_file")
    for asset, name in ((weights, WEIGHTS_FILE), (card, CARD_FILE)):
        described = FileExtension.ext(asset, add_if_missing=True)
        described.checksum = SHA2_256 + hashlib.sha256(files[name]).hexdigest()
        described.size = len(files[name])


def _period(text: Any) -> tuple[dt.datetime, dt.datetime]:
    """First and last second of ``first day/last day``; all time where there is no such text."""
    try:
        first, last = (dt.date.fromisoformat(day) for day in str(text).split("/"))
    except ValueError:
        return ANY_TIME
    start = dt.datetime.combine(first, dt.time(), tzinfo=dt.UTC)
    return start, dt.datetime.combine(last, dt.time(23, 59, 59), tzinfo=dt.UTC)


def _torch_version() -> str | None:
    """Release without the build, as the extension's pattern asks ("2.13.0", not "2.13.0+cpu")."""
    found = re.match(r"\d+\.\d+\.\d+", version("torch"))
    return found[0] if found else None
