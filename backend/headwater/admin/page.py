"""The page at `/`: the instance at a glance, and a search field that explains names.

The server renders all of it, so it can be read without JavaScript and in a terminal. The script of
the page fetches the same pieces again (`part=`), and inserts them. What is shown was written by
whoever may create objects. So jinja2 escapes each value, characters that a reader cannot see are
written out, and the policy in `HEADERS` runs no script and no style but those of `/assets`.

jinja2 and the templates are loaded when the page is first asked for.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from headwater.admin.overview import Overview
from headwater.admin.plot import HEIGHT, WIDTH, plot_of
from headwater.advice.finding import Advice, few
from headwater.explain.explanation import Explanation, Look, Origin
from headwater.explain.told import Page as History

if TYPE_CHECKING:
    from jinja2 import Environment

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: The headers of everything that a browser shows.
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
#: The types that the page offers; others can be written into its address.
TYPES: Final = ("A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "NS", "SOA")
#: Templates by the piece of the page that they are; "" is the whole of it.
PARTS: Final = {
    "": "page.html", "status": "status.html", "explanation": "explanation.html", "changes": "changes.html",
    "advice": "advice.html",
}  # fmt: skip
#: Findings that the page shows, in all and of one namespace.
_FINDINGS: Final = 20
_FINDINGS_EACH: Final = 5
_MEDIA: Final = {"css": "text/css", "js": "text/javascript"}
_OUTCOMES: Final = {"answer": "NOERROR", "nodata": "NODATA"}
_PLURALS: Final = {"topology": "by topology", "zone": "of zones"}
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


class Asset(Struct, frozen=True):
    """A file that the page loads."""

    media: str
    data: bytes


class Asked(Struct, frozen=True):
    """A question, and what became of it."""

    name: str = ""
    type: str = "A"
    explanation: Explanation | None = None
    history: History | None = None
    """Of that name; None where nothing is told."""
    problem: str = ""
    """Why there is no explanation."""


class Shown(Struct, frozen=True):
    """What one rendering shows."""

    overview: Overview
    refused: str
    """Why this client sees no names; "" when it does."""
    asked: Asked
    changes: History | None
    """The latest of all names; None where nothing is told."""
    now: float
    """Seconds since 1970."""
    advice: Advice | None = None
    """What will not work of the Services; None while nobody knows."""


class Page:
    """The templates and the assets; expensive to make, so there is one."""

    def __init__(self) -> None:
        """Load and compile all of it: 50 ms, for another thread than the loop's."""
        self.assets: dict[str, Asset] = {}
        """By name: with the hash of the content, so that a browser may keep them for ever."""
        urls = {}
        for kind, media in _MEDIA.items():
            data = _file(f"page.{kind}").encode()
            name = f"page.{hashlib.sha256(data).hexdigest()[:16]}.{kind}"
            self.assets[name] = Asset(media, data)
            urls[kind] = f"/assets/{name}"
        environment = _environment()
        environment.globals |= {"assets": urls, "types": TYPES, "plot_size": (WIDTH, HEIGHT)}
        self._templates = {part: environment.get_template(name) for part, name in PARTS.items()}

    def render(self, part: str, shown: Shown) -> str:
        """One of `PARTS` as HTML."""
        queries, asked = shown.overview.queries, shown.asked
        return self._templates[part].render(
            overview=shown.overview,
            zone=shown.overview.zones[0],
            plot=plot_of(queries.rcodes, queries.step_seconds),
            refused=shown.refused,
            asked=asked,
            found=asked.explanation,
            past=asked.history,
            changes=shown.changes,
            advice=shown.advice,
            wrong=few(shown.advice.findings, _FINDINGS, _FINDINGS_EACH) if shown.advice is not None else [],
            now=shown.now,
        )


def reversed_address(name: str) -> str:
    """The name to ask for an address, of which PTR records tell; "" for what is no address."""
    try:
        return ipaddress.ip_address(name.strip()).reverse_pointer
    except ValueError:
        return ""


def as_text(overview: Overview) -> str:
    """The page for clients that do not ask for HTML."""
    lines = [f"headwater {overview.version}", *(overview.problems or ["all is well"]), ""]
    lines += ["/            the page, for a browser", "/metrics", "/healthz", "/readyz", "/status"]
    lines += ["/explain?name=NAME&type=TYPE", "/names?prefix=WHAT-IS-TYPED&limit=20"]
    lines += ["/advice?after=NAMESPACE"]
    lines += ["/history?name=NAME&since=TIME", "/history?name=NAME&at=TIME", "/events?name=NAME"]
    return "".join(f"{line}\n" for line in lines)


def _file(name: str) -> str:
    return (resources.files("headwater.admin") / "templates" / name).read_text("utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_file),
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Callable[..., Any]] = {
        "ago": ago, "duration": duration, "size": size, "number": number, "outcome": outcome, "origin": origin,
        "look": look, "moment": _moment, "rate": rate, "plural": plural,
        "clock": clock, "without_time": without_time, "delay": delay, "verdict": verdict,
    }  # fmt: skip
    environment.filters |= filters
    return environment


def _visible(value: object) -> object:
    """Characters that nobody sees, or that turn the rest of a line around, as their numbers."""
    if type(value) is not str or value.isprintable():  # Markup is what a template has written
        return value
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in value)


# Words for numbers


def duration(seconds: float | None) -> str:
    """Seconds, in one unit."""
    if seconds is None:
        return "never"
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def ago(seconds: float | None) -> str:
    """How long ago something was."""
    if seconds is None:
        return "never"
    return "now" if seconds < 1 else f"{duration(seconds)} ago"


def size(count: int) -> str:
    """Bytes, in one unit."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def number(count: int) -> str:
    return f"{count:,}"


def rate(value: float) -> str:
    """A number of a second: as many digits as mean something."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def verdict(problems: Sequence[str]) -> str:
    """Whether all is well."""
    if not problems:
        return "All is well"
    return "One thing is not well" if len(problems) == 1 else f"{len(problems)} things are not well"


def plural(kind: str) -> str:
    """A kind of name as the heading of many."""
    return _PLURALS.get(kind, f"{kind}s")


def outcome(word: str) -> str:
    """An outcome as dig writes it."""
    return _OUTCOMES.get(word, word.upper())


def origin(found: Origin, now: float) -> list[str]:
    """Where a record comes from, in parts."""
    parts = [f"pod {found.pod}"] if found.pod else []
    parts.append(f"{found.object.kind} {found.object.name}")
    parts += [f"{what} {value}" for what, value in (("node", found.node), ("zone", found.zone)) if value]
    if found.since is not None:
        parts.append(f"since {ago(now - found.since)}")
    return parts


def look(found: Look) -> str:
    """What was not looked up, in a line."""
    where = f"{found.namespace}/{found.name}".strip("/")
    of = f" of Service {found.service}" if found.service else ""
    return f"{found.kind} {where}{of}: {found.why}"


def clock(time: str, now: float) -> str:
    """An entry's time (RFC 3339, in UTC): the time of today, or the day before it."""
    today = dt.datetime.fromtimestamp(now, dt.UTC).date().isoformat()
    day, _, of_day = time.partition("T")
    return of_day[:8] if day == today else f"{day} {of_day[:5]}"


def without_time(text: str) -> str:
    """A gap's line behind its time."""
    return text.partition(" ")[2].removeprefix("gap: ")


def delay(seconds: float) -> str:
    """From a change to its answer."""
    from headwater.explain.told import after

    return after(seconds)


def _moment(at: float) -> str:
    from headwater.explain.show import moment

    return moment(at)
