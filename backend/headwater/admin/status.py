"""The content of /readyz: whether queries are answered, and why or why not."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from headwater.admin.collector import watch_of
from headwater.process.counters import AnswerSnapshot, Kind, ProcessView

#: Ages and silences are told in milliseconds, as seconds.
_DIGITS = 3


class AnswerStatus(Struct):
    """One answer process."""

    up: bool
    ready: bool
    stale: bool | UnsetType = UNSET
    """Everything is SERVFAIL because of `--max-staleness`."""
    silent_seconds: float | UnsetType = UNSET
    """For how long it has not got on."""
    detail: str | UnsetType = UNSET
    """Why it is down."""


class ResourceStatus(Struct, rename={"resource_version": "resourceVersion"}):
    """The watch of one resource."""

    connected: bool
    resource_version: str
    age_seconds: float | None
    """Seconds since the API server was last heard; None before that."""
    errors: dict[str, int]


class WatchStatus(Struct):
    """The watch process."""

    up: bool
    ready: bool
    detail: str
    objects: dict[str, int]
    resources: dict[str, ResourceStatus]
    silent_seconds: float | UnsetType = UNSET
    """For how long it has not got on."""


class Status(Struct):
    """The whole instance."""

    ready: bool
    answer: dict[str, AnswerStatus]
    watch: WatchStatus


def status_of(views: Sequence[ProcessView], now: float) -> Status:
    """The status by the processes' reports, at that moment of the machine's monotonic clock."""
    answers = {view.name: _answer(view) for view in views if view.kind is Kind.ANSWER}
    return Status(
        ready=any(item.up and item.ready for item in answers.values()) and not any(map(_says_servfail, views)),
        answer=answers,
        watch=_watch(views, now),
    )


def _answer(view: ProcessView) -> AnswerStatus:
    snapshot = view.snapshot if isinstance(view.snapshot, AnswerSnapshot) else AnswerSnapshot()
    return AnswerStatus(
        up=view.up,
        # Its last report is not its present state.
        ready=snapshot.ready and not view.silent,
        stale=snapshot.stale or UNSET,
        silent_seconds=_silent(view),
        detail=view.trouble or UNSET,
    )


def _says_servfail(view: ProcessView) -> bool:
    """Whether an answer process runs and has no records yet, so that its clients get SERVFAIL."""
    snapshot = view.snapshot
    return isinstance(snapshot, AnswerSnapshot) and view.up and not view.silent and not snapshot.ready


def _silent(view: ProcessView) -> float | UnsetType:
    return round(view.silent, _DIGITS) if view.silent else UNSET


def _watch(views: Sequence[ProcessView], now: float) -> WatchStatus:
    watch = watch_of(views, now)
    view = next((item for item in views if item.kind is Kind.WATCH), None)
    trouble = view.trouble if view is not None else ""
    return WatchStatus(
        up=view is not None and view.up,
        ready=watch.ready,
        detail=trouble or watch.detail,
        objects=watch.objects,
        resources={
            name: ResourceStatus(
                connected=state.connected,
                resource_version=state.resource_version,
                age_seconds=round(state.age, _DIGITS) if state.age >= 0 else None,
                errors=state.errors,
            )
            for name, state in watch.resources.items()
        },
        silent_seconds=UNSET if view is None else _silent(view),
    )
