"""Log lines: one event each, as text or as JSON, on standard error.

2026-11-23T12:00:00.123Z INFO  watch     services: 10,000 objects as of version 4711
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Final

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


def configure(process: str, level: str, form: str) -> None:
    """Log of this process from here on; `process` is the word that says which one it is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(process) if form == "json" else _Text(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    warnings.showwarning = _warned  # type: ignore[assignment]  # the rest of its arguments is not read
    for chatty in ("urllib3", "kubernetes", "watchfiles", "asyncio", "uvicorn", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """A warning of Python's or of a library's as a line like any other; each place of it has one."""
    logging.getLogger(__name__).warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
