"""What `headwater explain` says to the operator of a site, whose traps the tests walk into."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.apps.site import Site

#: Exit codes of `explain`: the name answers, or it does not.
_SAID: Final = (0, 3)


def explained(site: Site, name: str, qtype: str = "A") -> str:
    """Return what it says of a name and a type."""
    assert site.headwater is not None
    admin = f"127.0.0.1:{site.headwater.admin_port}"
    command = [sys.executable, "-m", "headwater", "explain", name, qtype, "--admin", admin]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in _SAID, done.stderr
    return done.stdout
