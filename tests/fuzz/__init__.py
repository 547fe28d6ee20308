"""Fuzz targets: functions of one argument, bytes, that raise when something is wrong.

    make fuzz                                   each for two minutes, with atheris
    python -m tests.fuzz http2 [SECONDS]        one of them
    python -m tests.fuzz http2 --minimise       the fewest files that take the same branches

The corpus begins with the seeds, which are made and not kept. corpus/NAME holds what
atheris found beyond them: an input that takes a branch that no other takes. An input
that fails is written to the current folder as crash-…, and belongs into the corpus as
mended-… once it is mended; these are never thinned out. A test runs every file.
"""
