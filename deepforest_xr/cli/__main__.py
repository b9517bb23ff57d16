"""``python -m deepforest_xr.cli``."""

from deepforest_xr.cli import main

main()
