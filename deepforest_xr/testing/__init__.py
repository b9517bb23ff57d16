"""Simulated Amazon scenes: for the demo, and wherever a test must know the truth."""

from deepforest_xr.testing.landscape import landscape
from deepforest_xr.testing.laziness import no_compute
from deepforest_xr.testing.scenes import SimulatedScene, open_scene, simulate_scene

__all__ = ["SimulatedScene", "landscape", "no_compute", "open_scene", "simulate_scene"]
