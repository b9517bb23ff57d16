"""Every network on one 256 x 256 chip: plain, optimized, and what else one might take."""

from dataclasses import dataclass
from statistics import median

import torch

import deepforest_xr as dfx
from benchmarks.measure import in_turns
from deepforest_xr.classify.cost import forward_cost, on_meta

BANDS, CLASSES, MONTHS, SIDE = 10, 13, 7, 256
PEERS = {"smp U-Net": "Unet", "smp DeepLabV3+": "DeepLabV3Plus"}

TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")


@dataclass(frozen=True)
class Forward:
    """One network's forward pass."""

    name: str
    parameters: int
    plain_gflop: float
    plain_ms: float
    quick_gflop: float | None = None
    quick_ms: float | None = None
    difference: float | None = None


def run(repeats=5):
    """Yield a row for each network, then the peers."""
    for name in dfx.models.names():
        for branch in (None, *dfx.models.entry(name).s2_branches):
            yield _ours(name, branch, repeats)
    for title, class_name in PEERS.items():
        yield _peer(title, class_name, repeats)


@torch.inference_mode()
def _ours(name, branch, repeats):
    torch.manual_seed(0)
    months = MONTHS if dfx.models.entry(name).is_two_branch else None
    network = dfx.models.build(
        name, bands=BANDS, classes=CLASSES, months=months, s2_branch=branch
    ).eval()
    quick = dfx.models.optimize_for_inference(network)
    inputs = [torch.randn(1, BANDS, SIDE, SIDE)]
    if months:
        inputs.append(torch.randn(1, months, 2, SIDE, SIDE))
    times = in_turns(
        {"plain": lambda: network(*inputs), "quick": lambda: quick(*inputs)}, repeats=repeats
    )
    return Forward(
        f"{name} ({branch})" if branch else name,
        sum(p.numel() for p in network.parameters()),
        gflop(network, inputs),
        1000 * median(times["plain"]),
        gflop(quick, inputs),
        1000 * median(times["quick"]),
        (network(*inputs) - quick(*inputs)).abs().max().item(),
    )


@torch.inference_mode()
def _peer(title, class_name, repeats):
    torch.manual_seed(0)
    network = getattr(_smp(), class_name)(
        "resnet50", encoder_weights=None, in_channels=BANDS, classes=CLASSES
    ).eval()
    x = torch.randn(1, BANDS, SIDE, SIDE)
    times = in_turns({"plain": lambda: network(x)}, repeats=repeats)
    parameters = sum(p.numel() for p in network.parameters())
    return Forward(title, parameters, gflop(network, [x]), 1000 * median(times["plain"]))


def _smp():
    try:
        import segmentation_models_pytorch as smp
    except RuntimeError:
        # A torchvision built for CUDA cannot load its operators beside a torch without it, and
        # then fails to describe two of them. These networks use none: declared ones are enough.
        for name in ("nms", "qnms"):
            TORCHVISION.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import segmentation_models_pytorch as smp
    return smp


def gflop(network, inputs):
    """Floating-point operations in billions, without computing."""
    return forward_cost(on_meta(network), [tuple(x.shape) for x in inputs])[0]


def section(rows):
    """Lines of Markdown."""
    lines = [
        "## Networks",
        "",
        f"One {SIDE} x {SIDE} chip, {BANDS} bands, {CLASSES} classes, {MONTHS} Sentinel-1 months",
        "where there is a second branch, float32; medians of turns in one run. Plain: the module",
        "in eval mode, channels first. Opt.: `models.optimize_for_inference`. Difference:",
        "greatest between the logits of both. smp: segmentation-models-pytorch with ResNet50.",
        "GFLOP as torch counts them, and those of the Fourier transforms. `python -m",
        "benchmarks.networks` gives this table alone.",
        "",
        "| network | parameters | GFLOP | GFLOP, opt. | ms | ms, opt. | ratio | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        head = f"| {r.name} | {r.parameters:,} | {r.plain_gflop:.1f} "
        if r.quick_ms is None:
            lines.append(f"{head}| | {r.plain_ms:.0f} | | | |")
        else:
            lines.append(
                f"{head}| {r.quick_gflop:.1f} | {r.plain_ms:.0f} | {r.quick_ms:.0f} "
                f"| {r.plain_ms / r.quick_ms:.2f} | {r.difference:.0e} |"
            )
    return lines


if __name__ == "__main__":
    print("\n".join(section(run())))
