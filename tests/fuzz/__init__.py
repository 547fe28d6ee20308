"""Fuzz targets: functions of one argument, bytes, that raise when something is wrong.

    make fuzz                                   each for two minutes, with atheris
    python -m tests.fuzz http2 [SECONDS]        one of them
    python -m tests.fuzz --seed                 write the corpus's beginnings anew

What atheris finds new is added to corpus/NAME; an input that fails is written to
the current folder as crash-…, and belongs into the corpus once it is mended: a
test runs every file there.
"""
