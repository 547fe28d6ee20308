"""The parts of uvicorn and prometheus_client that are needed, without all that they load with them.

`import uvicorn` loads its command line, its supervisors and watchfiles, and `import
prometheus_client` the servers of its own exposition, with `http.server`, `urllib.request` and
`wsgiref`. That is 3 MiB in a process that serves metrics by itself.
"""

from __future__ import annotations

from headwater.process import bare

bare.put_in_place("uvicorn", "prometheus_client")

from prometheus_client.metrics_core import (  # noqa: E402
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics  # noqa: E402
from prometheus_client.registry import Collector, CollectorRegistry  # noqa: E402
from uvicorn.config import Config  # noqa: E402
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402
from uvicorn.server import Server  # noqa: E402

bare.give("uvicorn", Config, Server)

__all__ = [
    "Collector",
    "CollectorRegistry",
    "Config",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "H11Protocol",
    "HistogramMetricFamily",
    "Metric",
    "Server",
    "openmetrics",
]
