"""The modules of all children, for whoever imports them once for all: see `forks`."""

import headwater.serve.process
import headwater.writer.process
import headwater.writer.unmade  # noqa: F401
