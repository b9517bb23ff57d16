"""Ratios against named peers, measured in one run: `make bench` writes docs/benchmarks.md."""
