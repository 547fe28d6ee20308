"""The one error that stops a start."""

from __future__ import annotations


class SettingsError(ValueError):
    """A value that no start can be made with, in one line.

    `flag` is the one to change. `others` are the flags that it does not go with,
    where it takes two for the problem. Where the values came from is known to
    `configuration`, which words the line that a person reads.
    """

    def __init__(self, flag: str, problem: str, *others: str) -> None:
        super().__init__(f"{flag}: {problem}")
        self.flag = flag
        self.others = others
