"""Answers by the client's place, in words: the places of a Service, and why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.cluster.objects import EndpointSlice, Service
from headwater.records import limits, near
from headwater.records.decisions import Decided, applied, selected
from headwater.records.near import Mode, Verdict
from headwater.records.options import options_of, silent
from headwater.settings.settings import Settings

#: Places that one sentence names.
_FEW = 8


def told(
    service: Service, slices: Sequence[EndpointSlice], settings: Settings, decided: Decided | None = None
) -> list[str]:
    """What clients in some places get for the Service's own name and ports; nothing for a Service
    for which nobody asked for it. `decided`: by a policy.
    """
    options = applied(options_of(service, silent), decided)
    judged = near.judge(service, selected(limits.of_slices(slices, silent), decided), options)
    if judged.verdict in (Verdict.OFF, Verdict.NOT_HEADLESS):
        return []
    by_policy = decided is not None and decided.near is not None
    asked = f"near {judged.mode.value}, by the policy" if by_policy else f"headwater.dev/zone: {judged.mode.value}"
    if judged.mode is Mode.HINTS:
        asked = f"spec.trafficDistribution: {service.distribution}"
    if not settings.near:
        return [f"{asked} changes nothing: without --listen-zone or --client-option no client's place is known."]
    if judged.verdict is not Verdict.BY_PLACE:
        return [f"{asked} changes nothing now: {judged.verdict.value}. Every client gets all."]
    sizes = [f"zone {zone} {sum(len(items) for _, items in parts)}" for zone, parts in sorted(judged.zones.items())]
    sizes += [f"node {node} {sum(len(items) for _, items in parts)}" for node, parts in sorted(judged.nodes.items())]
    more = f", and {len(sizes) - _FEW:,} more" if len(sizes) > _FEW else ""
    others = "NODATA where the zone is another one, else all" if judged.mode is Mode.PIN else "all"
    found = [
        f"{asked}: by the client's place, so many endpoints: {', '.join(sizes[:_FEW])}{more}. Others get {others}."
    ]
    if judged.overloaded:
        zones = ", ".join(f"{zone} ({size})" for zone, size in sorted(judged.overloaded.items())[:_FEW])
        found.append(
            f"Too few endpoints for their zone, whose clients therefore get all: {zones}. "
            f"Each would carry more than {near.OVERLOADED} times the average."
        )
    return found
