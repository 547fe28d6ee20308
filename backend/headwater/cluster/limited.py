"""The time limit of exec credential plug-ins, for the thread that may start one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from headwater.cluster.package import ConfigException

_limit = threading.local()


class PluginFailed(BaseException):
    """No Exception, for the package swallows these. Does not leave `limited`."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit the time of plug-ins that this thread starts within the block.

    Raises ConfigException for one that takes longer, fails, or gives no credentials.
    """
    _limit.seconds = seconds
    try:
        yield
    except PluginFailed as error:
        raise ConfigException(str(error)) from None
    finally:
        _limit.seconds = None


def limit() -> float | None:
    """The limit of this thread, in seconds; None outside of `limited`."""
    found: float | None = getattr(_limit, "seconds", None)
    return found
