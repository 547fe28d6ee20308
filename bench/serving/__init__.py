"""Measure serving beside Go: see `python -m bench.serving --help`."""
