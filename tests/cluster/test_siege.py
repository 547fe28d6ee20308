"""Faults alone and in pairs that overlap in time: nothing is answered wrongly, and the
instance is never restarted.

Everything of `test_chaos` (plane, churn, prober, judgement by etcd's history), with CoreDNS over
TLS with client certificates, and few descriptors. The short form, in `make test`, has the most
telling faults; `make siege` has every fault once and all pairs of kinds, and writes its table into
docs/reliability.md.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from headwater.commands.corefile import stanza
from headwater.settings.address import Address

from bench.report import table
from tests.harness.arena import RATE, SETTLE, Seen, pause, restored, running, small_disk, staged
from tests.harness.instance import Headwater
from tests.harness.pki import Pki
from tests.harness.plane import PlaneError
from tests.harness.prober import LOST
from tests.harness.processes import CoreDNS, free_port, wait_until
from tests.siege.faults import ANSWERED, FAULTS, SLACK, Fault, external_names, silent_upstream
from tests.siege.ground import CANARY, DESCRIPTORS, Gauge, Ground, Kubeconfig, Note

LONG: Final = os.environ.get("HEADWATER_SIEGE") == "long"
#: Only the rows whose names match, for a look at some of them.
ONLY: Final = os.environ.get("HEADWATER_SIEGE_ONLY", "")
pytestmark = [pytest.mark.coredns, pytest.mark.slow, pytest.mark.timeout(240)]

RESULTS: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
NAMESPACE: Final = "siege"
HOLD: Final = 6.0  # seconds that faults go on together
AFTER: Final = 4.0 if LONG else 3.0  # seconds of probing afterwards

BY_NAME: Final = {fault.name: fault for fault in FAULTS}
#: What stands for its kind in pairs.
STANDS: Final = [
    BY_NAME[name]
    for name in (
        "watch and answer 0 hang", "answer 0 hangs", "forkserver hangs, answer 1 is killed",
        "admin: everything at once", "credentials spoilt, watch killed", "CA rotates, server first",
        "disk full, then partly, in relists", "pages of zeros", "flood of handshakes", "upstream is a tar pit",
    )
]  # fmt: skip
#: Kinds whose second fault of the kind "hung" would double the rows, and adds nothing.
PAIRS: Final = [
    (one, other)
    for one, other in itertools.combinations(STANDS, 2)
    if one.kind != other.kind and not (one.name == "answer 0 hangs" and other.kind not in ("disk", "flood", "damage"))
]
SHORT: Final = [
    ("watch and answer 0 hang", "flood of handshakes"),
    ("disk full, then partly, in relists",),
    ("answer 0 hangs", "disk full, then partly, in relists"),
    ("forkserver hangs, answer 1 is killed", "admin: everything at once"),
    ("credentials spoilt, watch killed", "pages of zeros"),
    ("CA rotates, server first", "upstream is a tar pit"),
]
ROWS: Final[list[tuple[Fault, ...]]] = (
    [*((fault,) for fault in FAULTS), *PAIRS] if LONG else [tuple(BY_NAME[name] for name in row) for row in SHORT]
)


@dataclass
class Row:
    """One row of the table."""

    seen: Seen
    unexcused: int
    mended: float
    wrong: list[str]
    logged: int
    memory: int


ROWS_SEEN: Final[list[Row]] = []


def title(faults: tuple[Fault, ...]) -> str:
    return " + ".join(fault.name for fault in faults)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("siege")
    pki = Pki(folder)
    with ExitStack() as stack:
        stage = stack.enter_context(staged(folder / "plane", NAMESPACE))
        stage.create(CANARY, "11.9.0")
        external_names(stage.plane)
        upstream = stack.enter_context(silent_upstream())
        kubeconfig = Kubeconfig(stage.plane, folder / "kubeconfig")
        stack.enter_context(small_disk(folder / "headwater-state"))
        headwater = Headwater(
            folder, "--kubeconfig", kubeconfig.file, "--upstream", str(upstream.address), *pki.flags(mutual=True),
            listen=Address(host="127.0.0.1", port=free_port()), descriptors=DESCRIPTORS,
        )  # fmt: skip
        stack.enter_context(headwater)
        corefile = stanza(headwater.settings, tls=pki.client(mutual=True))
        coredns = stack.enter_context(CoreDNS(folder, corefile))
        gauge = stack.enter_context(Gauge(headwater))
        arena = stack.enter_context(running(stage, headwater, coredns, after=AFTER))
        yield Ground(arena, kubeconfig, pki, gauge, folder)


@pytest.mark.parametrize("faults", [row for row in ROWS if re.search(ONLY, title(row))], ids=title)
def test_answers_stay_true_and_the_instance_lives(ground: Ground, faults: tuple[Fault, ...]) -> None:
    arena, notes = ground.arena, [Note() for _ in faults]
    arena.settled()
    ground.begin()
    with restored(ground.plane), arena.fault(title(faults), holds=any(fault.holds for fault in faults)) as seen:
        with ExitStack() as whole:
            blocks = [whole.enter_context(ExitStack()) for _ in faults]
            for block, fault, note in zip(blocks, faults, notes, strict=True):
                block.enter_context(fault.act(ground, note))
            pause(HOLD)
            for block in blocks:  # in the order in which they began: each is alone for a while
                block.close()
        ended = time.monotonic()
        wait_until(ground.recovered, SETTLE, "all is as before", ignoring=(OSError, PlaneError))
        seen.ended = time.monotonic()
    mended = seen.ended - ended
    hung, damaged = ([span for note in notes for span in getattr(note, what)] for what in ("hung", "damaged"))
    unexcused = [
        query
        for query in seen.verdict.unanswered
        if not any(
            since <= (query.received or query.sent + LOST) and query.sent <= until
            for since, until in (hung + damaged if query.reply else hung)
        )
    ]
    wrong = ground.check()
    seen.remark = "; ".join(remark for note in notes for remark in note.remarks)
    ROWS_SEEN.append(Row(seen, len(unexcused), mended, wrong, ground.logged(), ground.gauge.memory))
    print(report(ROWS_SEEN[-1:]))
    log = ground.said()[-4000:]
    assert seen.verdict.wrong()[:5] == [], log
    assert wrong == [], log
    assert [(query.name, query.sent - seen.began, bool(query.reply)) for query in unexcused[:10]] == [], log
    assert mended < max(fault.mended for fault in faults) + SLACK, log
    assert seen.verdict.asked > 0.2 * RATE * (seen.ended + AFTER - seen.began)
    if len(faults) == 1:  # together, one may keep another from being felt
        assert max(note.waited for note in notes) < ANSWERED
        for proof in (proof for note in notes for proof in note.proofs):
            assert ground.risen(proof) >= proof.least, f"{proof.pattern} has not risen: the fault was none"
        refused = {query.name for query in seen.verdict.unanswered if query.reply}
        assert len(refused) < len(arena.chronicle.names()) / 2, "the others were answered throughout"


def test_table_of_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """The faults that were tested before, as they are found in docs/reliability.md."""
    text = report(ROWS_SEEN)
    with capsys.disabled():
        print(f"\n\n{text}\n")
    if LONG and not ONLY and len(ROWS_SEEN) == len(ROWS):
        page = RESULTS.read_text()
        RESULTS.write_text(re.sub(r"(?s)(<!-- siege -->\n).*(\n<!-- /siege -->)", rf"\g<1>{text}\g<2>", page))


def report(rows: list[Row]) -> str:
    cells = []
    for row in rows:
        verdict = row.seen.verdict
        cells.append(
            (
                row.seen.fault, f"{verdict.asked:,}", f"{len(verdict.unanswered)}", f"{row.unexcused}",
                f"{len(verdict.wrong_nxdomain)}", f"{len(verdict.never_true) + len(verdict.broken)}",
                f"{len(verdict.too_old)}", f"{verdict.oldest:.1f}", f"{row.mended:.1f}",
                f"{row.logged / 1024:.0f}", f"{row.memory >> 20}", "; ".join([row.seen.remark, *row.wrong]),
            )
        )  # fmt: skip
    head = (
        "faults", "questions", "not answered", "without excuse", "wrong NXDOMAIN", "never true", "too old",
        "oldest, s", "mended, s", "log, KiB", "memory, MiB", "seen",
    )  # fmt: skip
    return table(head, cells)
