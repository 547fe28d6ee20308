"""The product's log, silenced for a part of a command that tells a person itself what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing meanwhile. What is wrong is raised, too."""
    log = logging.getLogger("headwater")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
