"""`headwater history`: what the answers were changed to, when and why."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlencode

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.explain.told import Answered, Page, Told

#: How long the instance may take, in seconds; it gives up before.
_TIMEOUT: Final = 6.0
#: And from one sign of life to the next, while it is followed.
_SILENCE: Final = 40.0
_MOST: Final = 1 << 20
#: Seconds before a connection that broke is tried again, and between two looks at a state
#: directory.
_AGAIN: Final = 1.0
_LOOK: Final = 0.5


_T = TypeVar("_T")


class NotTold(RuntimeError):  # noqa: N818 (what happened)
    """Nothing can be told: the text says why."""


class _Query(dict[str, str]):
    """The parameters of /history."""

    def but(self, **more: str) -> _Query:
        return _Query({**self, **more})


@settings_command(
    "Say what a name's answers were changed to, when and why.\n\nWithout a NAME, everything. The instance at --admin "
    "is asked; with --state-dir on the command line none has to run. Times are RFC 3339, 14:03 (in UTC), 10m (ago) or "
    "seconds since 1970. Exit codes: 0; 3 with --at, when there was no such record or it is not known; 1, nothing "
    "could be told."
)
@click.argument("name", required=False, default="")
@click.argument("qtype", metavar="[TYPE]", default="A")
@flag("--at", metavar="TIME", help="What was answered then, as dig prints it.")
@flag("--since", metavar="TIME", help="Only what came after that.")
@flag("--ip", metavar="ADDRESS", help="Who had the address, and when.")
@flag("--follow", is_flag=True, help="Go on, and print what changes.")
@flag("--json", "as_json", is_flag=True, help="Print JSON, an entry a line (docs/history.md has the schema).")
def command(
    configuration: Configuration, name: str, qtype: str, at: str | None, since: str | None, ip: str | None,
    follow: bool, as_json: bool,
) -> int:  # fmt: skip
    settings = configuration.settings
    offline = configuration.origins["--state-dir"].where == "--state-dir"
    if settings.manifests and not offline:
        raise SettingsError("--manifests", "manifests have no history: ask an instance, or give --state-dir")
    query = _Query({"name": name, "type": qtype})
    for key, text in (("at", at), ("since", since), ("ip", ip)):
        if text:
            query[key] = _moment(text, f"--{key}") if key != "ip" else text
    if at and (not name or since or ip or follow):
        raise SettingsError("--at", "it goes with a NAME, and not with --since, --ip or --follow")
    source = _State(settings) if offline else _Admin(settings)
    try:
        if at:
            return _show(source.answered(query), as_json=as_json)
        last = _print_all(source, query, as_json=as_json)
        if follow:
            for entry in source.follow(query.but(since=""), last):
                if not ip or _has(entry, ip):
                    _print(entry, as_json=as_json)
    except NotTold as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    return 0


def _moment(text: str, flag_: str) -> str:
    from headwater.explain.times import parse_moment

    try:
        return repr(parse_moment(text, time.time()))
    except ValueError as error:
        raise SettingsError(flag_, str(error)) from None


def _has(entry: Told, ip: str) -> bool:
    of_places = [line for place in entry.places for line in (*place.added, *place.removed)]
    return any(line.split(" ")[0] == ip for line in (*entry.added, *entry.removed, *of_places))


def _print(entry: Told, *, as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(entry).decode() if as_json else entry.text)


def _print_all(source: _Admin | _State, query: _Query, *, as_json: bool) -> int:
    """Everything that is asked for, the oldest first; the number of the newest entry of all."""
    pages: list[list[Told]] = []
    newest, note, before = -1, "", ""
    while True:
        page = source.page(query.but(before=before, limit="1000"))
        newest, note = max(newest, page.newest), note or page.note
        pages.append(page.entries)
        if page.next is None:
            break
        before = str(page.next)
    for entries in reversed(pages):
        for entry in reversed(entries):
            _print(entry, as_json=as_json)
    if (name := query["name"]) and not any(entry.kind == "change" for entries in pages for entry in entries):
        click.echo(f"headwater: no change of {name} is known{' in that time' if query.get('since') else ''}", err=True)
    if note:
        click.echo(f"headwater: {note}", err=True)
    return newest


def _show(found: Answered, *, as_json: bool) -> int:
    import msgspec

    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        click.echo("\n".join(_dig(found)))
    return 0 if found.known and found.records else NEGATIVE


def _dig(found: Answered) -> Iterator[str]:
    if found.known:
        yield f";; ->>HEADER<<- opcode: QUERY, status: {found.rcode}"
        yield f";; ANSWER: {len(found.records)}"
    else:
        yield ";; it is not known what was answered"
    yield ""
    yield ";; QUESTION SECTION:"
    yield f";{found.name}.\t\tIN\t{found.type}"
    if found.records:
        yield ""
        yield ";; ANSWER SECTION:"
        for item in found.records:
            yield f"{item.name}.\t{item.ttl}\tIN\t{item.type}\t{item.data}"
    if found.places:
        yield ""
        yield ";; BY THE CLIENT'S PLACE:"
        for place in found.places:
            yield f";; {place.place}: {', '.join(place.added) or 'NODATA'}"
    yield ""
    yield f";; AT: {found.at}"
    if found.why:
        yield f";; {found.why}"


class _Admin:
    """The instance at --admin."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def page(self, query: _Query) -> Page:
        from headwater.explain.told import Page

        return self._decoded(self._get("/history", query), Page)

    def answered(self, query: _Query) -> Answered:
        from headwater.explain.told import Answered

        return self._decoded(self._get("/history", query), Answered)

    def follow(self, query: _Query, last: int) -> Iterator[Told]:
        """What comes after an entry, for ever; a connection that breaks is made again."""
        import msgspec

        from headwater.explain.told import Told

        given = {key: text for key, text in query.items() if key == "name" and text}
        while True:
            try:
                for line in self._lines(f"/events?{urlencode(given)}", last):
                    if line.startswith(b"data: "):
                        entry = msgspec.json.decode(line.removeprefix(b"data: "), type=Told)
                        last = entry.seq
                        yield entry
            except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
                click.echo(f"headwater: {_why(error)}: trying again", err=True)
            time.sleep(_AGAIN)

    def _lines(self, path: str, last: int) -> Iterator[bytes]:
        connection = self._connection(_SILENCE)
        try:
            connection.request("GET", path, headers={"Last-Event-ID": str(last)} if last >= 0 else {})
            reply = connection.getresponse()
            if reply.status != 200:
                raise NotTold(f"{self._settings.admin}: {reply.read(_MOST).decode(errors='replace').strip()[:500]}")
            while line := reply.readline(_MOST):
                yield line
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        address = self._settings.admin
        if address is None:
            raise NotTold("the admin page is off: give --state-dir, or --admin ADDRESS")
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout)

    def _get(self, path: str, query: _Query) -> bytes:
        address = self._settings.admin
        connection = self._connection(_TIMEOUT)
        try:
            connection.request("GET", f"{path}?{urlencode({key: text for key, text in query.items() if text})}")
            reply = connection.getresponse()
            body = reply.read(_MOST)
        except (OSError, http.client.HTTPException) as error:
            raise NotTold(
                f"{address}: {_why(error)}. Does `headwater serve` run, and is --admin where it listens? Without it: "
                "--state-dir DIR"
            ) from None
        finally:
            connection.close()
        if reply.status == 404:
            raise NotTold(f"{address}: what answers there knows no /history: it is not headwater, or an older one")
        if reply.status == 400:
            raise SettingsError("history", body.decode(errors="replace").strip()[:500])
        if reply.status != 200:
            raise NotTold(f"{address}: {body.decode(errors='replace').strip()[:500]}")
        return body

    def _decoded(self, body: bytes, type_: type[_T]) -> _T:
        import msgspec

        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.MsgspecError as error:
            raise NotTold(f"{self._settings.admin}: its history is of another version: {error}") from None


class _State:
    """A state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def page(self, query: _Query) -> Page:
        from headwater.explain.told import Page

        found = self._told(query)
        assert isinstance(found, Page)
        return found

    def answered(self, query: _Query) -> Answered:
        from headwater.explain.told import Answered

        found = self._told(query)
        assert isinstance(found, Answered)
        return found

    def follow(self, query: _Query, last: int) -> Iterator[Told]:
        """What comes after an entry, for ever."""
        while True:
            found = self.page(query.but(after=str(max(last, 0))))
            for entry in found.entries:
                last = entry.seq
                yield entry
            if found.next is None:
                time.sleep(_LOOK)

    def _told(self, query: _Query) -> Page | Answered:
        from headwater.explain.history import told_from
        from headwater.explain.offline import Unusable, opened
        from headwater.explain.question import question

        try:
            asked = question(query, time.time())
            with opened(Path(self._settings.state_dir), self._settings) as (reader, _):
                return told_from(reader, self._settings, asked, time.time())
        except Unusable as error:
            raise NotTold(str(error)) from None
        except ValueError as error:
            raise SettingsError("history", str(error)) from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
