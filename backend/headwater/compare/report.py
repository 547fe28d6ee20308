"""What came of a comparison: for people as a table with examples, for programs as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from headwater.compare.comparison import Finding, Tally, described
from headwater.compare.judgement import OPEN, Kind

#: Examples that the table shows: of what matters, and of what is meant.
_EXAMPLES, _OF_THE_KNOWN = 3, 1
#: Zones that the table names; others are counted.
_ZONES: Final = 4
#: Those of them whose examples say something that the count does not.
_WITH_EXAMPLES: Final = dict.fromkeys((*OPEN, Kind.THEY_ARE_LATE, Kind.WE_ARE_LATE), _EXAMPLES) | dict.fromkeys(
    (Kind.DEVIATION, Kind.FLAGS, Kind.AUTHORITY), _OF_THE_KNOWN
)


class Example(Struct, omit_defaults=True):
    """One question, and both replies in one line each."""

    name: str
    type: str
    asked_by: str
    """The transport and EDNS."""
    theirs: str
    ours: str
    late: float = 0.0
    """Seconds."""
    resolution: float = 0.0
    """Seconds that `late` may be too long."""
    asked: int = 1
    """How often it was asked."""
    when: float = 0.0
    """Seconds since 1970."""


class Lateness(Struct):
    """Of one side, in seconds."""

    median: float
    p99: float
    worst: float


class Class(Struct, rename={"kind": "class"}, omit_defaults=True):
    """The questions of one class."""

    kind: str
    questions: int
    explained: bool
    deviation: str = ""
    lateness: Lateness | None = None
    examples: list[Example] = []


class Report(Struct, rename={"with_": "with"}):
    """A comparison, as far as it has got."""

    with_: str
    """The other server's address, and the transport."""
    ours: str
    """Where Headwater's answers are from."""
    zones: list[str]
    started: float
    """Seconds since 1970."""
    seconds: float
    rounds: int
    """Complete ones."""
    names: int
    """That Headwater knows, addresses too."""
    questions: int
    unexplained: int
    undecided: int
    """Differences that the end came before."""
    ended: str
    """"complete", "stopped", "time", or "silent": the other server answered no more."""
    classes: list[Class]
    messages: dict[str, int]
    """To the other server, by what became of them."""
    hints: list[str]

    @property
    def agrees(self) -> bool:
        """Whether all that was to be asked was asked, and nothing is left to be explained."""
        return not self.unexplained and self.rounds > 0 and self.ended in ("complete", "time")


def classes_of(tally: Tally) -> list[Class]:
    """Every class that occurred, in the order of `Kind`."""
    found = []
    for kind in Kind:
        labels = [label for label in sorted(tally.counts) if label.partition(":")[0] == kind]
        for label in labels:
            deviation = label.partition(":")[2]
            seconds = tally.late.get(kind)
            examples = [_example(finding) for finding in tally.findings.get(label, ())]
            lateness = _lateness(seconds) if seconds else None
            found.append(Class(str(kind), tally.counts[label], kind not in OPEN, deviation, lateness, examples))
    return found


def _lateness(seconds: Sequence[float]) -> Lateness:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return Lateness(round(statistics.median(ordered), 3), round(p99, 3), round(ordered[-1], 3))


def _example(finding: Finding) -> Example:
    name, kind = described(finding.query).split(" ")
    return Example(
        name, kind, str(finding.query.way), finding.theirs, finding.ours, round(finding.late, 3),
        round(finding.resolution, 3), finding.asked, round(finding.when, 3),
    )  # fmt: skip


def hints_of(tally: Tally) -> list[str]:
    """What usually lies behind such differences."""
    found = []
    if tally.counts[Kind.TTL]:
        found.append(
            "TTLs: a cache counts them down; else --ttl and --negative-ttl make Headwater's those of the other server."
        )
    pods = [item for item in tally.findings.get(Kind.UNEXPLAINED, ()) if ".pod." in item.query.name]
    if pods:
        found.append(
            "Names in pod.ZONE differ: does --pods say what the `pods` of the other server's Corefile says? That of "
            "kubeadm says `pods insecure`."
        )
    if tally.counts[Kind.THEY_FAIL]:
        found.append("The other server refuses, or fails: is it a server of these zones, the reverse ones too?")
    if tally.counts[Kind.WE_FAIL]:
        found.append("Headwater refuses, or fails: `headwater explain NAME` says why.")
    return found


# -- for people


def shown(report: Report) -> str:
    """The summary: what was compared, a line for each class, examples, and the verdict last."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    rounds = "1 round" if report.rounds == 1 else f"{report.rounds:,} rounds"
    yield f"Headwater ({report.ours}) beside {report.with_}"
    others = f" and {len(report.zones) - _ZONES} more" if len(report.zones) > _ZONES else ""
    zones = ", ".join(report.zones[:_ZONES]) + others
    yield f"zones {zones}; {report.names:,} names; {rounds}, {took(report.seconds)}"
    yield ""
    titles = [_title(item.kind, item.deviation) for item in report.classes]
    width = max(map(len, [*titles, "class"]))
    numbers = [f"{item.questions:,}" for item in report.classes]
    column = max(map(len, [*numbers, "questions"]))
    yield f"  {'class':<{width}}  {'questions':>{column}}  {'share':>9}"
    for title, number, item in zip(titles, numbers, report.classes, strict=True):
        share = f"{100 * item.questions / max(report.questions, 1):.3f} %"
        late = item.lateness
        rest = f"  worst {late.worst:.3f} s, median {late.median:.3f} s, p99 {late.p99:.3f} s" if late else ""
        yield f"  {title:<{width}}  {number:>{column}}  {share:>9}{rest}"
    yield f"  {'all':<{width}}  {report.questions:>{column},}"
    if report.undecided:
        yield f"  {report.undecided:,} differences were still being asked about, and are in no class"
    for item in report.classes:
        if item.examples and item.kind in _WITH_EXAMPLES:
            yield ""
            most = _WITH_EXAMPLES[Kind(item.kind)]
            more = f", {most} of {item.questions:,}" if item.questions > most else ""
            yield f"{_title(item.kind, item.deviation)}{more}:"
            for example in item.examples[:most]:
                late_by = f", late by {example.late:.3f} s" if example.late else ""
                yield f"  {example.name} {example.type} ({example.asked_by}{late_by})"
                yield f"    theirs  {example.theirs}"
                yield f"    ours    {example.ours}"
    sent = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in sorted(report.messages.items()))
    yield ""
    yield f"Messages to the other server: {sent or 'none'}."
    yield from report.hints
    yield verdict(report)


def verdict(report: Report) -> str:
    """The last line: what a change board asks for."""
    asked = f"{report.questions:,} questions"
    if report.unexplained:
        return f"NOT ALIKE: {report.unexplained:,} of {asked} have a difference that nothing explains, or no answer."
    match report.ended:
        case "silent":
            return f"NOT COMPARED: the other server stopped answering, after {asked}."
        case "stopped":
            return f"NOT COMPARED TO THE END: stopped after {asked}; no difference so far that nothing explains."
        case "time" if not report.rounds:
            return f"NOT COMPARED TO THE END: the time was over before one round, after {asked}."
    return f"ALIKE: {asked}, and no difference that nothing explains."


def _title(kind: str, deviation: str) -> str:
    return f"{kind.replace('_', ' ')} {deviation}".rstrip()


def took(seconds: float) -> str:
    """A time for people: "2 h 5 min", "3 min 4 s", "5.2 s"."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"


def news(finding: Finding) -> str:
    """A difference that was just found, in three lines."""
    late = f", by {finding.late:.3f} s" if finding.late else ""
    return (
        f"{_title(finding.kind, finding.deviation)}{late}: {described(finding.query)} ({finding.query.way})\n"
        f"  theirs  {finding.theirs}\n  ours    {finding.ours}"
    )


def progress(asked: int, of: int, counts: Mapping[str, int], seconds: float) -> str:
    """One line while it goes on."""
    bad = sum(number for label, number in counts.items() if label in OPEN)
    late = counts.get(Kind.THEY_ARE_LATE, 0) + counts.get(Kind.WE_ARE_LATE, 0)
    left = (of - asked) * seconds / asked if asked else 0.0
    share = f" ({100 * asked / of:.0f} %)" if of else ""
    return f"{asked:,} of about {of:,} questions{share}, {bad:,} unexplained, {late:,} late; {took(max(left, 0))} left"
