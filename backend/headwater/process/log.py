"""Log lines: one event each, as text or as JSON, on standard error.

2026-11-23T12:00:00.123Z INFO  watch     services: 10,000 objects as of version 4711
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Final

#: The seconds for which `Seldom` counts, and the number of sorts of lines that it tells apart.
_MINUTE: Final = 60.0
_SORTS: Final = 100
LEVELS: Final = ("debug", "info", "warning", "error")


class _Text(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return f"{moment}.{record.msecs:03.0f}Z {record.levelname:<7} {self._process:<10} {text}"


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{moment}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class Seldom(logging.Filter):
    """At most so many lines a minute of each sort.

    The next minute's first line says how many were left out.
    """

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = lines
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}
        """By format string: when its minute began, and the number of lines in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        now, sort = self._clock(), str(record.msg)[:200]
        began, count = self._seen.get(sort, (now, 0))
        left_out = 0
        if now - began >= _MINUTE:
            began, left_out, count = now, max(0, count - self._lines), 0
        if len(self._seen) >= _SORTS and sort not in self._seen:
            self._seen.clear()
        self._seen[sort] = began, count + 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out:,} times before)", ()
        return count < self._lines


def configure(process: str, level: str, form: str) -> None:
    """Configure the log of this process; `process` is its name in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    warnings.showwarning = _warned  # type: ignore[assignment]  # the rest of its arguments is not read
    for chatty in ("urllib3", "kubernetes", "watchfiles", "asyncio", "uvicorn", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """Log a warning of Python or a library as a line, once for each place."""
    logging.getLogger(__name__).warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
