"""What serving costs, side by side with Go: see `python -m bench.serving --help`."""
