"""Other libraries' lines in the log."""

from __future__ import annotations

import subprocess
import sys

_WARNING = """
import warnings
from headwater.process import log
log.configure("watch", "info", "text")
for _ in range(3):
    warnings.warn("something is odd")
"""


def test_a_warning_is_one_line_like_any_other() -> None:
    done = subprocess.run([sys.executable, "-c", _WARNING], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith("UserWarning: something is odd")
    assert " WARNING watch " in line
