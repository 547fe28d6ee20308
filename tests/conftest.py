"""Fixtures that every test uses."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _loud() -> None:
    """Restore the product's log level, which commands lower for the rest of their process."""
    logging.getLogger("headwater").setLevel(logging.NOTSET)
