"""The physics of Sentinel-1 and Sentinel-2: arrays in, arrays out, nothing opened or computed."""
