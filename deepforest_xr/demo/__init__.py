"""The whole path in one call: scenes, cube, labels, chips, training, map, scores."""

from deepforest_xr.demo.run import OUTPUTS, DemoResult, run_demo
from deepforest_xr.demo.settings import DemoSettings

__all__ = ["OUTPUTS", "DemoResult", "DemoSettings", "run_demo"]
