"""What every test begins with."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _loud() -> None:
    """Commands that ran in this process have quietened the product's log: they end with their process."""
    logging.getLogger("headwater").setLevel(logging.NOTSET)
