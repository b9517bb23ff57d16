"""How good a map is: one confusion matrix, and every score from it.

Rows are map classes, columns reference classes, everywhere. Counts, calibration bins and
areas are sums over pixels, so those of tiles add up to those of the whole, and a dask-backed
map is never in memory at once. A score that is undefined (0 / 0) is NaN and printed as a
dash, never 0.

    report = assess(lulc, reference, calibration=True)            # against a label raster

    area   = mapped_area(lulc)                                    # or against a sample:
    plan   = plan_sample(area, users_accuracy=0.8, standard_error=0.02)
    points = draw_points(lulc, plan.units, seed=1)                # to be labelled
    report = assess_points(points, area, legend)                  # with 95 % intervals

Nothing here draws or writes a file: `deepforest_xr.maps` does.
"""

from deepforest_xr.accuracy.compare import assess, assess_points
from deepforest_xr.accuracy.counts import confusion
from deepforest_xr.accuracy.estimate import AreaAdjusted, area_adjusted
from deepforest_xr.accuracy.points import (
    counts_from_points,
    draw_points,
    mapped_area,
    points_to_geojson,
)
from deepforest_xr.accuracy.reliability import (
    Calibration,
    TemperatureScaling,
    apply_temperature,
    calibrate,
    calibration,
    confidence_calibration,
    temperature_scale,
)
from deepforest_xr.accuracy.report import Report
from deepforest_xr.accuracy.sampling import SamplePlan, plan_sample
from deepforest_xr.accuracy.scores import Disagreement, Scores, disagreement, kappa

__all__ = [
    "AreaAdjusted",
    "Calibration",
    "Disagreement",
    "Report",
    "SamplePlan",
    "Scores",
    "TemperatureScaling",
    "apply_temperature",
    "area_adjusted",
    "assess",
    "assess_points",
    "calibrate",
    "calibration",
    "confidence_calibration",
    "confusion",
    "counts_from_points",
    "disagreement",
    "draw_points",
    "kappa",
    "mapped_area",
    "plan_sample",
    "points_to_geojson",
    "temperature_scale",
]
