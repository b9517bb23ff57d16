"""The stages of the path, one command each: search, cube, chips, train, classify, assess, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from deepforest_xr.cli import console
from deepforest_xr.cli.chips import chips
from deepforest_xr.cli.console import bar, require_free, say
from deepforest_xr.cli.options import (
    NETWORKS,
    Bbox,
    Bounds,
    Collection,
    Crs,
    Dataset,
    LabelBand,
    LegendFile,
    Overwrite,
    Resolution,
    make_grid,
    open_store,
    read_labels,
)
from deepforest_xr.cli.training import train
from deepforest_xr.errors import ReadError

if TYPE_CHECKING:
    import pystac

    from deepforest_xr.accuracy import Report
    from deepforest_xr.accuracy.sampling import Allocation


def search(
    source: Annotated[
        str,
        typer.Argument(help="planetary-computer, earth-search, an API's URL, or items on disk."),
    ],
    out: Annotated[Path, typer.Option(help="Where to freeze the items: .parquet or .json.")],
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="West south east north, degrees.", metavar="W S E N"),
    ] = None,
    year: Annotated[int | None, typer.Option(help="A whole year.")] = None,
    datetime: Annotated[
        str | None, typer.Option(help="2018-06-01/2018-08-31, 2018-06, ...")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option(help="Collection id; may be given again.")
    ] = None,
    max_cloud_cover: Annotated[float | None, typer.Option(help="Percent, Sentinel-2.")] = None,
) -> None:
    """Find scenes and freeze the answer.

    Example: `deepforest-xr search planetary-computer --bbox -55.2 -8.6 -55.0 -8.4 --year 2018
    --out items.parquet`
    """
    import deepforest_xr as dfx

    with console.err_console.status("Searching"):
        items = dfx.search(
            source,
            bbox=bbox,
            year=year,
            datetime=datetime,
            collections=collection,
            max_cloud_cover=max_cloud_cover,
        )
    dfx.write_items(items, out)
    console.out_console.print(_items_table(list(items)))
    say(f"{len(items)} scenes written to {out}")


def cube(
    items: Annotated[Path, typer.Argument(help="Items on disk, from `search`.")],
    out: Annotated[Path, typer.Option(help="Zarr store to write.")],
    crs: Crs,
    bounds: Bounds = None,
    bbox: Bbox = None,
    resolution: Resolution = 10,
    dataset: Dataset = None,
    month: Annotated[
        list[int] | None, typer.Option(help="Sentinel-1 month instead of a dataset, repeated.")
    ] = None,
    resampling: Annotated[
        str, typer.Option(help="nearest, bilinear, cubic or average.")
    ] = "nearest",
    composite: Annotated[
        str, typer.Option(help="Sentinel-2: median, medoid, geomad or best-pixel.")
    ] = "median",
    scl_dilation: Annotated[int, typer.Option(help="Pixels to grow clouds and shadows by.")] = 0,
    speckle: Annotated[
        str | None, typer.Option(help="Sentinel-1: lee, refined_lee or quegan.")
    ] = None,
    engine: Annotated[str, typer.Option(help="stackstac or odc-stac.")] = "stackstac",
    on_error: Annotated[
        str, typer.Option(help="A file that cannot be read: raise, or nodata and a report.")
    ] = "raise",
    overwrite: Overwrite = False,
) -> None:
    """Build the cube of a grid and write it as Zarr.

    Example: `deepforest-xr cube items.parquet --crs EPSG:32721 --bbox -55.2 -8.6 -55.0 -8.4
    --dataset S1TsS2_7 --out cube.zarr`
    """
    import deepforest_xr as dfx
    from deepforest_xr.reader import read_failures

    grid = make_grid(crs, bounds, bbox, resolution)
    lazy = dfx.open_cube(
        dfx.read_items(items),
        grid=grid,
        dataset=dataset,
        months=month,
        resampling=resampling,
        composite=composite,
        scl_dilation=scl_dilation,
        speckle_filter=speckle,
        engine=engine,
        on_error=on_error,
    )
    with bar("Cube") as progress:
        dfx.write_zarr(lazy, out, overwrite=overwrite, progress=progress)
    for line in read_failures(lazy):
        say(f"not read: {line}", console.err_console)
    say(f"{grid.describe()} written to {out}")


def classify(
    cube: Annotated[Path, typer.Argument(help="Zarr store from `cube`.")],
    out: Annotated[Path, typer.Option(help="Zarr store of the map.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint; default: $DEEPFOREST_XR_MODEL, else the one from `model install`."
        ),
    ] = None,
    cog: Annotated[
        Path | None, typer.Option(help="Also a GeoTIFF, with its STAC item beside it.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also a quick-look PNG.")] = None,
    probability: Annotated[
        bool, typer.Option("--probability", help="Also the probability of every class.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also entropy and margin of the probabilities.")
    ] = False,
    block: Annotated[
        int | None, typer.Option(help="Side of a block in pixels; default: the network's.")
    ] = None,
    halo: Annotated[
        int | None, typer.Option(help="Pixels around a block; default: the network's.")
    ] = None,
    blend: Annotated[
        int, typer.Option(help="Pixels over which neighbouring blocks fade into one another.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Classify a cube to a land-cover map; interrupted, the same command goes on.

    Example: `deepforest-xr classify cube.zarr --model runs/df1b/checkpoint --out map.zarr
    --cog map.tif --picture map.png`
    """
    import deepforest_xr as dfx
    from deepforest_xr.maps.cog import cog_files

    opened = open_store(cube)
    period = opened.attrs.get("s2_period")
    if cog is not None and period is None:
        raise ReadError(f"{str(cube)!r} does not say its period (attribute s2_period): no cube.")
    beside = [] if cog is None else [*cog_files(cog), cog.with_suffix(".json")]
    require_free([out, picture, *beside], overwrite=overwrite)
    lulc = dfx.classify(
        opened,
        model,
        block=block,
        halo=halo,
        blend=blend,
        device=device,
        probability=probability,
        uncertainty=uncertainty,
    )
    with bar("Map") as progress:
        dfx.write_zarr(lulc, out, overwrite=overwrite, resume=True, progress=progress)
    written = open_store(out)
    if cog is not None:
        dfx.write_cog(written, cog, overwrite=overwrite)
        start, end = str(period).split("/")
        item = cog.with_suffix(".json")
        dfx.maps.write_stac_item(
            written, item, assets={"lulc": cog}, start=start, end=end, overwrite=overwrite
        )
    if picture is not None:
        dfx.maps.write_picture(written, picture, overwrite=overwrite)
    say("map written to " + ", ".join(str(p) for p in (out, cog, picture) if p is not None))


def assess(
    map_: Annotated[Path, typer.Argument(metavar="MAP", help="Zarr store from `classify`.")],
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REFERENCE",
            help="Label raster, file or URL; or labelled points, .csv or .geojson.",
        ),
    ] = None,
    collection: Collection = None,
    legend: LegendFile = None,
    band: LabelBand = None,
    chips: Annotated[
        Path | None, typer.Option(help="Chips of the training: only their test blocks count.")
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Also whether the confidence can be believed.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Report to write: .md, .json, or a folder of both.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Confusion matrix as PNG.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder of all pictures.")] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Instead: points to label, .csv or .geojson.")
    ] = None,
    units: Annotated[
        int | None, typer.Option(help="Points to draw; default: what the error needs.")
    ] = None,
    expected: Annotated[float, typer.Option(help="Expected user's accuracy, 0 to 1.")] = 0.8,
    standard_error: Annotated[
        float, typer.Option(help="Wanted of overall accuracy, a share.")
    ] = 0.02,
    allocation: Annotated[
        str, typer.Option(help="olofsson, proportional, equal or neyman.")
    ] = "olofsson",
    minimum: Annotated[int, typer.Option(help="Points of a rare class.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the points drawn.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Score a map against a label raster or labelled points, or draw points to label.

    Example: `deepforest-xr assess map.zarr mapbiomas.tif --collection 8 --chips chips.zarr
    --out report.md`, or `deepforest-xr assess map.zarr --draw points.csv`
    """
    import deepforest_xr as dfx
    from deepforest_xr.cli import scoring
    from deepforest_xr.maps import write_confusion_picture, write_report, write_report_pictures

    if (reference is None) == (draw is None):
        raise typer.BadParameter("give either a reference or --draw.")
    lulc = open_store(map_)
    if draw is not None:
        scoring.draw_sample(
            lulc, draw, units=units, expected=expected, standard_error=standard_error,
            allocation=cast("Allocation", allocation), minimum=minimum, seed=seed,
            overwrite=overwrite,
        )  # fmt: skip
        return
    if scoring.is_points(str(reference)):
        scoring.refuse_with_points(
            collection=collection, legend=legend, band=band, chips=chips, calibration=calibration
        )
        report = scoring.assess_sample(lulc, str(reference))
    else:
        aligned = read_labels(str(reference), lulc, collection, legend, band)
        mask, majority = scoring.held_out(lulc, chips)
        with console.err_console.status("Counting"):
            report = dfx.assess(
                lulc, aligned, mask=mask, majority_class=majority, calibration=calibration
            )
    if out is not None:
        write_report(report, out, overwrite=overwrite)
    if picture is not None:
        write_confusion_picture(report, picture, overwrite=overwrite)
    if pictures is not None:
        write_report_pictures(report, pictures, overwrite=overwrite)
    console.out_console.print(_scores_table(report))


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("demo"),
    items: Annotated[
        Path | None, typer.Option(help="Real items on disk; default: simulated scenes.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label raster; default: labels/<site>.tif by the items.")
    ] = None,
    legend: LegendFile = None,
    collection: Collection = None,
    site: Annotated[str | None, typer.Option(help="Property `site` of the items.")] = None,
    datetime: Annotated[
        str | None, typer.Option(help="Period; default: the last twelve whole months.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="S2, S1TsS2_7, S1TsS2_12; default: S1TsS2_7 if simulated, else S2 and the S1 "
            "months that exist."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help=f"{NETWORKS}; the u-net is the quickest.")] = "u-net",
    size: Annotated[int, typer.Option(help="Side of the simulated scene in pixels.")] = 512,
    chip: Annotated[int, typer.Option(help="Side of a chip in pixels.")] = 64,
    epochs: Annotated[
        int | None, typer.Option(help="At most; default: some four million pixels shown.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of simulation, split and training.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Run the whole path: scenes, cube, labels, chips, training, map, scores.

    Example: `deepforest-xr demo --out demo`, or on real scenes `deepforest-xr demo --items
    items.json --labels labels.tif --legend legend.csv --out demo-real`
    """
    from deepforest_xr.demo import DemoSettings, run_demo

    settings = DemoSettings(
        items=_text(items),
        labels=_text(labels),
        legend=_text(legend),
        collection=collection,
        site=site,
        datetime=datetime,
        dataset=dataset,
        model=model,
        size=size,
        chip=chip,
        epochs=epochs,
        seed=seed,
    )
    result = run_demo(out, settings, overwrite=overwrite, stage=bar)
    for title, report in (("labels", result.report), ("clean truth", result.truth)):
        if report is not None:
            console.out_console.print(
                _scores_table(report, title=f"Held-out blocks against the {title}")
            )
    say(f"{out / 'map.zarr'}, {out / 'map.tif'}, {out / 'map.png'}, {out / 'report.md'}")


COMMANDS = (search, cube, chips, train, classify, assess, demo)


def _items_table(items: list[pystac.Item]) -> Table:
    table = Table("collection", "scenes", "first", "last", box=None, header_style="bold")
    for name in sorted({i.collection_id or "" for i in items}):
        days = sorted(str(i.datetime)[:10] for i in items if (i.collection_id or "") == name)
        table.add_row(name, str(len(days)), days[0], days[-1])
    return table


def _scores_table(report: Report, *, title: str | None = None) -> Table:
    scores = report.scores
    name = f"{title or 'Accuracy'}{' (simulated)' if report.simulated else ''}"
    table = Table("", "", title=name, box=None, show_header=False, title_justify="left")
    rows: dict[str, Any] = {
        "overall accuracy": f"{scores.overall_accuracy:.1%}",
        "majority-class baseline": f"{scores.majority_baseline:.1%}",
        "macro F1": f"{scores.macro_f1:.1%}",
        "mean IoU": f"{scores.mean_iou:.1%}",
        "pixels": f"{scores.pixels:,}",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
