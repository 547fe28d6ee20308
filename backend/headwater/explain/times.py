"""Times as people type them."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Final

from headwater.settings.error import SettingsError
from headwater.settings.parse import parse_duration

_CLOCK: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}(?:\.[0-9]{1,6})?))?")
_EPOCH: Final = re.compile(r"[0-9]{1,11}(?:\.[0-9]{1,9})?")


def parse_moment(text: str, now: float) -> float:
    """Seconds since 1970: RFC 3339, seconds since 1970, 14:03 (the last one, in UTC), or 10m (ago).

    Raises ValueError, with words for a person.
    """
    text = text.strip()
    if _EPOCH.fullmatch(text):
        return float(text)
    if found := _CLOCK.fullmatch(text):
        hour, minute, second = int(found[1]), int(found[2]), float(found[3] or 0)
        if hour < 24 and minute < 60 and second < 60:
            today = math.floor(now / 86400) * 86400
            moment = today + hour * 3600 + minute * 60 + second
            return moment if moment <= now else moment - 86400
    try:
        return now - parse_duration(text, "")
    except SettingsError:
        pass
    try:
        parsed = dt.datetime.fromisoformat(text)
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=dt.UTC)
        return max(0.0, parsed.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is not a time such as 2026-01-31T14:03:00Z, 14:03 (in UTC), 10m (ago) or 1767225600"
        ) from None
