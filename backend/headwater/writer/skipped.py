"""Count each record that cannot be made, and log it once, within a bound of lines per minute."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

#: Messages that are remembered. The message that was reported longest ago is forgotten first, and
#: is logged again when it comes back.
_REMEMBERED: Final = 10_000
#: Lines that are logged at most in one window, and the window's length in seconds.
_LINES: Final = 20
_WINDOW: Final = 60.0
#: Longer names and details are cut, in characters: any user of the cluster may write them.
_NAME: Final = 100
_DETAIL: Final = 300


class Skipped:
    """The counts and the log of one watch process. Safe to call from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: dict[str, int] = {}
        """Reports by reason."""
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._began = clock()
        self._lines = 0
        self._untold = 0

    def report(self, reason: str, namespace: str, name: str, detail: str) -> None:
        """Count a record that cannot be made, and log why."""
        key = (namespace[:_NAME], name[:_NAME], detail[:_DETAIL])
        with self._lock:
            self.counts[reason] = self.counts.get(reason, 0) + 1
            if key in self._seen:
                self._seen.move_to_end(key)
                return
            self._turn()
            if self._lines == _LINES:
                self._untold += 1  # and not remembered, so that it is logged when there is room
                return
            self._lines += 1
            self._seen[key] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        _log.warning("left out: %s/%s: %s", key[0] or "-", key[1] or "-", key[2])

    def look(self) -> None:
        """Log how many reports were not logged, once their minute is over.

        To be called every few seconds.
        """
        with self._lock:
            self._turn()

    def _turn(self) -> None:
        now = self._clock()
        if now - self._began < _WINDOW:
            return
        if self._untold:
            _log.warning("left out: %s more, not named here (headwater_records_skipped_total)", f"{self._untold:,}")
        self._began, self._lines, self._untold = now, 0, 0
