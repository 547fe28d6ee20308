"""The one error that stops a start."""

from __future__ import annotations


class SettingsError(ValueError):
    """A value that no start can be made with. `flag` is the one to change."""

    def __init__(self, flag: str, problem: str) -> None:
        super().__init__(f"{flag}: {problem}")
        self.flag = flag
