"""The one error that stops a start."""

from __future__ import annotations


class SettingsError(ValueError):
    """A value that makes a start impossible, in one line.

    `flag` is the one to change. `others` are flags that contradict it, where the problem takes two.
    `configuration` knows the origins of the values, and words the line that a person reads.
    """

    def __init__(self, flag: str, problem: str, *others: str) -> None:
        super().__init__(f"{flag}: {problem}")
        self.flag = flag
        self.others = others
