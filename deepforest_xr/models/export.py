"""A checkpoint as an ONNX file, for programs without torch.

Inputs are what the network takes, standardised and without NaN: ``x``, or ``s2`` and ``s1``
of a two-branch network; the output is ``logits``. Batch, y and x are free, y and x in steps
of 32 pixels. The content of ``model.json`` travels in the file's metadata, so that bands,
normalisation and legend are not lost. Nothing is written that onnxruntime does not compute
as torch does, on sizes other than the one that was traced.
"""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepforest_xr.atomic import staged
from deepforest_xr.errors import MissingExtraError, ModelError
from deepforest_xr.models.checkpoint import CARD_FILE, Checkpoint, load
from deepforest_xr.models.registry import entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from deepforest_xr.models.network import Network

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch: of a logit, and where logits are above 1, as
a share of the largest. Rounding grows with the numbers; a wrong operator is off by far more."""

STRIDE = 32
# (n, y, x): neither 1 nor equal where it is traced, or torch takes a size for a constant.
TRACED = (2, 64, 96)
CHECKED = ((1, 32, 64), (3, 96, 32))


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What was written, and how well it agrees."""

    path: Path
    """The file."""

    opset: int
    """Version of the ONNX operators in it."""

    difference: float
    """Largest one that was seen between onnxruntime and torch, in the sense of `TOLERANCE`."""


def export_onnx(
    checkpoint: Checkpoint | str | Path, out: str | Path, *, overwrite: bool = False
) -> OnnxFile:
    """Write the network of a checkpoint as ONNX, once onnxruntime agrees with torch.

    Parameters
    ----------
    checkpoint : Checkpoint or path of its folder
        Any network of this library.
    out : path
        File to write, usually ``*.onnx``.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    OnnxFile
        Path, opset and the largest difference that was measured.

    Raises
    ------
    MissingExtraError
        If onnx, onnxscript or onnxruntime is not installed.
    ModelError
        If the checkpoint cannot be used, or a logit differs by more than `TOLERANCE`.
    WriteError
        If the file exists or cannot be written.
    """
    _require_extra()
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    network = checkpoint.build()
    with staged(out, overwrite=overwrite) as partial, _quiet():
        program = _trace(network)
        program.model.metadata_props[CARD_FILE] = json.dumps(checkpoint.card())
        program.save(partial, external_data=False)
        difference = _largest_difference(network, partial)
        if difference > TOLERANCE:
            raise ModelError(
                f"{checkpoint.model} differs by {difference:.1e} in onnxruntime from torch, "
                f"allowed is {TOLERANCE:.0e}: {out} was not written. Try another onnxruntime."
            )
    return OnnxFile(Path(out), int(program.model.opset_imports[""]), difference)


def _require_extra() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'export to ONNX needs {", ".join(missing)}: pip install "deepforest-xr[export]".'
        )


def _trace(network: Network) -> torch.onnx.ONNXProgram:
    import torch
    from torch.export import Dim

    # y and x are multiples of 32: the network's own check becomes part of what is traced.
    sides = (STRIDE * Dim("rows", min=1), STRIDE * Dim("cols", min=1))
    inputs = _inputs(network, *TRACED)
    shapes = tuple(
        {0: Dim("batch", min=1), x.ndim - 2: sides[0], x.ndim - 1: sides[1]}
        for x in inputs.values()
    )
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None, "torch.onnx.export with dynamo returns a program"  # noqa: S101
    return program


def _inputs(network: Network, count: int, rows: int, cols: int) -> dict[str, Tensor]:
    """Make seeded images of standard normal noise: standardised ones have its moments."""
    import torch

    random = torch.Generator().manual_seed(rows)
    if not entry(network.model_name).is_two_branch:
        return {"x": torch.randn(count, network.bands, rows, cols, generator=random)}
    months = network.build_arguments["months"]
    return {
        "s2": torch.randn(count, network.bands, rows, cols, generator=random),
        "s1": torch.randn(count, months, 2, rows, cols, generator=random),
    }


def _largest_difference(network: Network, file: Path) -> float:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in CHECKED:
        inputs = _inputs(network, *size)
        with torch.no_grad():
            expected = network(*inputs.values())
        feed: dict[str, Any] = {name: x.numpy() for name, x in inputs.items()}
        (logits,) = session.run(["logits"], feed)
        difference = (torch.from_numpy(logits) - expected).abs().max() / max(
            1, expected.abs().max()
        )
        worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's talk about its own insides: deprecations, torchvision, axis names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
