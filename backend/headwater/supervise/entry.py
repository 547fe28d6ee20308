"""The main functions of child processes: the supervisor starts them without their imports.

The imports (grpc, kubernetes) happen in the children that need them. In the supervisor they would
waste 15 MiB. What all children need is imported before they are forked (`roles`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from headwater.process import control
from headwater.serve.assignment import Assignment
from headwater.settings.settings import Settings
from headwater.store.identity import Identity

if TYPE_CHECKING:
    from headwater.answer.resolver import Resolver
    from headwater.store.environment import Reader


def watch(settings: Settings, identity: Identity, end: socket.socket) -> None:
    """The watch process. `end` is its end of the link to the supervisor."""
    from headwater.writer.process import run

    run(settings, identity, end)


def answer(assignment: Assignment, end: socket.socket) -> None:
    """An answer process."""
    from headwater.serve.process import run
    from headwater.writer.unmade import FromObjects

    say = None
    if assignment.settings.extended_errors:
        from headwater.explain.extended import Reasons

        say = Reasons(assignment.settings).say
    run(assignment, end, _explain, _tell, say, FromObjects(assignment.settings))


def peer(assignment: Assignment, end: socket.socket) -> None:
    """The peer process."""
    from headwater.peers.server import run

    assert assignment.listening is not None
    run(assignment.settings, assignment.identity, assignment.listening, end)


def _explain(
    asked: control.Explain | control.Complete | control.Advise, reader: Reader, resolver: Resolver, settings: Settings
) -> bytes:
    """`serve` may not import it, and an answer process without explanations does not need it."""
    import msgspec

    if isinstance(asked, control.Complete):
        from headwater.explain.complete import completed_from

        return msgspec.json.encode(completed_from(reader, settings, asked.typed, asked.limit))
    if isinstance(asked, control.Advise):
        from headwater.explain.advised import advised_from

        return msgspec.json.encode(advised_from(reader, settings, asked.after))
    from headwater.explain.explain import explained_from

    return msgspec.json.encode(explained_from(reader, resolver, settings, asked.name, asked.qtype, asked.waiting))


def _tell(asked: control.History, reader: Reader, settings: Settings) -> bytes:
    """The same of the history."""
    import time

    import msgspec

    from headwater.explain.history import told_from

    return msgspec.json.encode(told_from(reader, settings, asked, time.time()))
