"""Fuzz targets: functions that take bytes, and raise when something is wrong.

    make fuzz                                   each for two minutes, with atheris
    python -m tests.fuzz http2 [SECONDS]        one of them
    python -m tests.fuzz http2 --minimise       the fewest files that take the same branches

The corpus begins with the seeds, which code makes. corpus/NAME has the inputs that atheris found
besides these; each takes a branch that no other input takes. atheris writes an input that fails to
the current folder as crash-…. When the bug is mended, the input belongs into the corpus as
mended-…, and `--minimise` keeps it. A test runs every file.
"""
