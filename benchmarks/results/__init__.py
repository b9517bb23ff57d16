"""What networks, datasets and losses reach on simulated scenes, whose truth is known.

`python -m benchmarks.results` trains everything and writes docs/results.md. Every run is a
folder: called again, finished runs are not repeated and an interrupted one goes on.
"""
