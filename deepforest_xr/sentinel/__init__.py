"""The physics of Sentinel-1 and Sentinel-2: arrays in, arrays out, nothing opened or computed."""

from deepforest_xr.sentinel import border, clouds, composite, s1, s2, speckle

__all__ = ["border", "clouds", "composite", "s1", "s2", "speckle"]
