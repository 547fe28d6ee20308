"""`kubectl headwater`: what the instances in a cluster say, asked through the API server.

kubectl takes a program of the name kubectl-headwater for a plug-in. It needs nothing but the
credentials that kubectl uses: the admin ports are reached by `pods/portforward`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import click

from headwater.commands.cli import FAILED, NEGATIVE, run
from headwater.commands.credentials import api_server
from headwater.commands.help import Formatted, flag
from headwater.commands.quiet import quiet

if TYPE_CHECKING:
    from headwater.admin.status import Status
    from headwater.cluster.api import ApiServer
    from headwater.cluster.replicas import Replica
    from headwater.explain.explanation import Explanation

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

#: Replicas that are asked at the same time.
_AT_ONCE: Final = 8
_WHERE: Final = "Where it runs"


class _Group(Formatted, click.Group):
    """Its help looks as that of `headwater`."""


def _where(function: _F) -> _F:
    """The flags that say which pods are meant, as kubectl has them."""
    flags = (
        flag("--kubeconfig", metavar="FILE", group=_WHERE, help="The kubeconfig. [as kubectl]"),
        flag("--context", metavar="NAME", group=_WHERE, help="Its context. [its current one]"),
        flag("-n", "--namespace", metavar="NAME", default="", group=_WHERE,
             help="The pods' namespace. [headwater and kube-system]"),
        flag("-l", "--selector", metavar="SELECTOR", default="", group=_WHERE,
             help="The pods' labels. [app.kubernetes.io/name=headwater or k8s-app=kube-dns]"),
        flag("--container-port", metavar="PORT", type=click.IntRange(1, 65535), group=_WHERE,
             help="The admin port. [the one called headwater-http, else 9353]"),
        flag("--json", "as_json", is_flag=True, help="Print JSON."),
    )  # fmt: skip
    for one in reversed(flags):
        function = one(function)
    return function


_replicas = flag("--replicas", is_flag=True, help="Ask every replica, not the first that answers.")


class _Asked:
    """The replicas, and what each said."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str, selector: str, port: int | None):
        from headwater.cluster.replicas import find

        self.server: ApiServer = api_server(kubeconfig, context)
        with quiet():
            self.replicas, self.problems = find(self.server, namespace, selector, port or 0)

    def every(self, ask: Callable[[Replica], _T]) -> list[tuple[Replica, _T | str]]:
        """What each says, or why it says nothing."""
        from headwater.cluster.replicas import NotThere

        def one(replica: Replica) -> _T | str:
            try:
                return ask(replica)
            except NotThere as error:
                return str(error)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(zip(self.replicas, threads.map(one, self.replicas), strict=True))

    def first(self, ask: Callable[[Replica], _T]) -> list[tuple[Replica, _T | str]]:
        """The same of those that were asked until one answered, the ready ones first."""
        from headwater.cluster.replicas import NotThere

        said: list[tuple[Replica, _T | str]] = []
        for replica in sorted(self.replicas, key=lambda item: not item.ready):
            try:
                return [(replica, ask(replica))]
            except NotThere as error:
                said.append((replica, str(error)))
        return said


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="docs/kubectl.md says which permissions it needs.",
)
def command() -> None:
    """What Headwater says in a cluster, asked through the API server."""


@command.command("explain", cls=Formatted)
@click.argument("name")
@click.argument("qtype", metavar="[TYPE]", default="A")
@_replicas
@_where
def explain(name: str, qtype: str, replicas: bool, as_json: bool, container_port: int | None, **where: Any) -> int:
    """Say why a name answers as it does, or does not.

    Exit codes: 0, it answers; 3, it does not, or replicas differ; 1, nobody could be asked.
    """
    import msgspec

    from headwater.cluster.replicas import NotThere
    from headwater.explain.explanation import Outcome

    def ask(replica: Replica) -> Explanation:
        return _explanation(asked.server, replica, name, qtype)

    try:
        asked = _Asked(port=container_port, **where)
    except NotThere as error:
        return _failed(str(error))
    said = asked.every(ask) if replicas else asked.first(ask)
    _say(asked.problems)
    answers = [item for _, item in said if not isinstance(item, str)]
    if as_json:
        rows = [
            _row(replica) | ({"error": item} if isinstance(item, str) else {"explanation": msgspec.to_builtins(item)})
            for replica, item in said
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_explanations(asked.server, said, several=replicas)
    if not answers:
        return FAILED
    one = len({_verdict(item) for item in answers}) == 1
    return 0 if one and answers[0].outcome is Outcome.ANSWER else NEGATIVE


@command.command("history", cls=Formatted)
@click.argument("name", default="")
@click.option("--since", metavar="WHEN", default="", help="Not what came before: 10m, or a time (RFC 3339).")
@click.option("--limit", metavar="COUNT", type=click.IntRange(1, 100_000), help="At most so many changes.")
@_replicas
@_where
def history(
    name: str, since: str, limit: int | None, replicas: bool, as_json: bool, container_port: int | None, **where: Any
) -> int:
    """Print the changes of a name, or of all names.

    Exit codes: 0; 3, no change is known; 1, nobody could be asked.
    """
    from headwater.cluster.replicas import NotThere

    wanted = {"name": name, "since": since, "limit": "" if limit is None else str(limit)}
    path = f"/history?{urlencode({key: value for key, value in wanted.items() if value})}"

    def ask(replica: Replica) -> dict[str, Any]:
        return _history(asked.server, replica, path)

    try:
        asked = _Asked(port=container_port, **where)
    except NotThere as error:
        return _failed(str(error))
    said = asked.every(ask) if replicas else asked.first(ask)
    _say(asked.problems)
    if as_json:
        rows = [_row(replica) | ({"error": it} if isinstance(it, str) else {"history": it}) for replica, it in said]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_histories(said, several=replicas)
    answers = [item for _, item in said if not isinstance(item, str)]
    if not answers:
        return FAILED
    return 0 if any(item["entries"] for item in answers) else NEGATIVE


@command.command("status", cls=Formatted)
@_where
def status(as_json: bool, container_port: int | None, **where: Any) -> int:
    """Print a table of the replicas.

    Exit codes: 0, all are ready; 3, one is not, or does not answer; 1, nobody could be asked.
    """
    from headwater.cluster.replicas import NotThere

    try:
        asked = _Asked(port=container_port, **where)
    except NotThere as error:
        return _failed(str(error))
    said = asked.every(lambda replica: _state(asked.server, replica))
    _say(asked.problems)
    if as_json:
        rows = [_row(replica) | ({"error": it} if isinstance(it, str) else it) for replica, it in said]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(said, time.time())
    states = [item for _, item in said if not isinstance(item, str)]
    if not states:
        return FAILED
    return 0 if len(states) == len(said) and all(item["ready"] for item in states) else NEGATIVE


# What replicas are asked


def _explanation(server: ApiServer, replica: Replica, name: str, qtype: str) -> Explanation:
    """Raises NotThere."""
    import msgspec

    from headwater.cluster.replicas import NotThere
    from headwater.explain.explanation import Explanation

    body = _page(server, replica, f"/explain?{urlencode({'name': name, 'type': qtype})}", "explain names")
    try:
        return msgspec.json.decode(body, type=Explanation)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotThere(f"{replica}: its explanation is of another version: {error}") from None


def _history(server: ApiServer, replica: Replica, path: str) -> dict[str, Any]:
    """Raises NotThere."""
    from headwater.cluster.replicas import NotThere

    body = _page(server, replica, path, "keep a history")
    try:
        found = json.loads(body)
        entries = [{**item, "time": item["time"], "text": str(item["text"])} for item in found["entries"]]
    except (ValueError, KeyError, TypeError) as error:
        raise NotThere(f"{replica}: its history is of another version: {error!r}") from None
    return {**found, "entries": entries}


def _state(server: ApiServer, replica: Replica) -> dict[str, Any]:
    """The row of a replica. Raises NotThere."""
    import msgspec

    from headwater.admin.status import Status
    from headwater.cluster.replicas import NotThere, ask

    _, body = ask(server, replica, "/readyz")  # 503 has the same content
    try:
        found: Status = msgspec.json.decode(body, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NotThere(f"{replica}: what answers on port {replica.port} is not headwater: {error}") from None
    _, metrics = ask(server, replica, "/metrics")
    ages = [item.age_seconds for item in found.watch.resources.values()]
    return {
        "ready": found.ready,
        "heard_seconds": max((age for age in ages if age is not None), default=None) if None not in ages else None,
        "names": int(_sum(metrics, "headwater_names{")),
        "as_of": {name: item.resource_version for name, item in found.watch.resources.items()},
        "version": _label(metrics, "headwater_build_info{", "version"),
        "process_restarts": int(_sum(metrics, "headwater_process_restarts_total{")),
        "detail": _detail(found),
    }


def _detail(found: Status) -> str:
    """Why it is not as it should be."""
    words = [] if found.watch.ready and found.watch.up else [found.watch.detail or "the watch process is down"]
    for name, item in found.answer.items():
        if not item.up or item.silent_seconds or item.stale:
            words.append(f"{name}: {item.detail or ('stale' if item.stale is True else 'does not get on')}")
    return "; ".join(words)


def _page(server: ApiServer, replica: Replica, path: str, does: str) -> bytes:
    """A page that is there. Raises NotThere."""
    from headwater.cluster.replicas import NotThere, ask

    code, body = ask(server, replica, path)
    if code == 404:
        raise NotThere(f"{replica}: it does not {does}: it is older than this command, or it is not Headwater")
    if code != 200:
        raise NotThere(f"{replica}: {code}: {body[:500].decode(errors='replace').strip()}")
    return body


def _sum(metrics: bytes, begin: str) -> float:
    """The sum of a family's samples."""
    lines = [line for line in metrics.decode(errors="replace").splitlines() if line.startswith(begin)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _label(metrics: bytes, begin: str, label: str) -> str:
    """A label's value in the first sample of a family."""
    line = next((line for line in metrics.decode(errors="replace").splitlines() if line.startswith(begin)), "")
    return line.partition(f'{label}="')[2].partition('"')[0]


def _verdict(found: Explanation) -> tuple[object, ...]:
    """What has to be alike for two replicas to say the same."""
    return (
        found.outcome,
        found.cause,
        tuple(sorted((item.type, item.data) for item in found.records)),
        found.more_records,
    )


def _by(found: Explanation) -> str:
    """Return the object that decides, and the version of it that the replica holds."""
    objects = [item.object for item in found.deciding if item.object.kind != "flag"]
    objects += [origin.object for record in found.records for origin in record.origins]
    if not objects:
        return ""
    version = objects[0].resource_version
    return f"{objects[0]}{f' (version {version})' if version else ''}"


# What is printed


def _print_explanations(
    server: ApiServer, said: Sequence[tuple[Replica, Explanation | str]], *, several: bool
) -> None:  # fmt: skip
    """What most replicas say; and those that say something else, each with its own."""
    from headwater.explain.look import gather, refine
    from headwater.explain.show import ago, printable, show
    from headwater.explain.sources import FromApi

    width = shutil.get_terminal_size((100, 24)).columns
    now = time.time()
    groups: dict[tuple[object, ...], list[tuple[Replica, Explanation]]] = {}
    for replica, item in said:
        if isinstance(item, str):
            _say([item])
        else:
            groups.setdefault(_verdict(item), []).append((replica, item))
    alike = sorted(groups.values(), key=len, reverse=True)
    if several and alike:
        rows = [("", "REPLICA", "NODE", "OUTCOME", "CAUSE", "SINCE", "BY")]
        for place, group in enumerate(alike):
            for replica, found in group:
                since = "" if found.changed is None else ago(now - found.changed)
                mark = "!" if place else ""
                rows.append((mark, str(replica), replica.node, found.outcome, found.cause, since, _by(found)))
        click.echo(_columns(rows))
        if len(alike) > 1:
            click.echo(f"\n{len(alike)} different answers: those marked ! differ from the first.")
    for group in alike:
        if several:
            click.echo(f"\n{printable(', '.join(str(replica) for replica, _ in group))}:")
        found = group[0][1]
        with quiet():
            found = refine(found, gather(found.looks, FromApi(lambda: server)))
        click.echo(show(found, now, width))


def _print_histories(said: Sequence[tuple[Replica, dict[str, Any] | str]], *, several: bool) -> None:
    from headwater.explain.show import printable

    for replica, item in said:
        if isinstance(item, str):
            _say([item])
            continue
        if several:
            click.echo(f"{replica}:")
        if item.get("from"):
            click.echo(f"known since {printable(_moment(item['from']))}")
        for entry in item["entries"]:
            click.echo(printable(f"{_moment(entry['time'])} {entry['text']}"))
        if not item["entries"]:
            click.echo("no change is known")
        if item.get("note"):
            click.echo(printable(str(item["note"])))
        if item.get("next"):
            click.echo("there are more: ask with --limit, or --since")


def _print_table(said: Sequence[tuple[Replica, dict[str, Any] | str]], now: float) -> None:
    from headwater.explain.show import ago

    rows = [("REPLICA", "NODE", "READY", "AGE", "HEARD", "NAMES", "SLICES AT", "VERSION", "RESTARTS", "")]
    for replica, item in said:
        age = "" if replica.created is None else ago(now - replica.created).removesuffix(" ago")
        if isinstance(item, str):
            rows.append((str(replica), replica.node, "?", age, "", "", "", "", str(replica.restarts),
                         item.removeprefix(f"{replica}: ")))  # fmt: skip
            continue
        heard = item["heard_seconds"]
        restarts = f"{replica.restarts}+{item['process_restarts']}"
        rows.append((
            str(replica), replica.node, "yes" if item["ready"] else "no", age,
            "never" if heard is None else ago(heard), f"{item['names']:,}",
            item["as_of"].get("endpointslices", ""), item["version"], restarts, item["detail"],
        ))  # fmt: skip
    click.echo(_columns(rows))


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """A table whose last column may be long: only its first line stands in the row."""
    from headwater.explain.show import printable

    cells = [[printable((str(cell).splitlines() or [""])[0]) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = [printable(line) for row in rows for line in str(row[-1]).splitlines()[1:]]
    return "\n".join([*lines, *dict.fromkeys(more)])


def _moment(when: object) -> str:
    """A time as RFC 3339 has it; a text as it is."""
    from headwater.explain.show import moment

    return moment(when) if isinstance(when, int | float) else str(when)


def _row(replica: Replica) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(replica)
    # Two are called ready: the pod by its probes, the instance by what it says.
    found["pod_ready"] = found.pop("ready")
    return found


def _say(problems: Sequence[str]) -> None:
    """What went wrong and does not stop the command."""
    from headwater.explain.show import printable

    for problem in dict.fromkeys(problems):
        for line in problem.splitlines():
            click.echo(printable(line), err=True)


def _failed(why: str) -> int:
    _say([f"kubectl-headwater: {why}"])
    return FAILED


def main(arguments: list[str] | None = None) -> int:
    """The console script."""
    return run(command, "kubectl-headwater", arguments)
