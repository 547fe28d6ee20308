"""CoreDNS between SIGTERM and its end: the reason to wait in `preStop`, and not with `lameduck`.

The tests check a fact about CoreDNS, not a promise of ours. When the first test fails, CoreDNS has
changed. `lameduck` may then be useful again, and docs/operations.md has to say so.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.rcode
import pytest

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS, free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.coredns

#: Long enough for a question between the signal and the end, in seconds.
LAMEDUCK: Final = 3
SETTLE: Final = 10.0
COREFILE: Final = """\
{stanza}
.:53 {{
    health 127.0.0.1:{port} {{
        lameduck {seconds}s
    }}
    errors
}}
"""


def rcode(coredns: CoreDNS) -> str:
    """Return the rcode for the Service's name; "none" without a reply."""
    try:
        return dns.rcode.to_text(coredns.ask(SERVICE, "A", timeout=1.0).rcode())
    except (dns.exception.Timeout, OSError):
        return "none"


def test_coredns_answers_servfail_while_it_is_a_lame_duck(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with Headwater(tmp_path, "--manifests", manifest) as headwater:
        text = COREFILE.format(stanza=headwater.grpc_corefile_stanza(), port=free_port(), seconds=LAMEDUCK)
        with CoreDNS(tmp_path, text) as coredns:
            assert rcode(coredns) == "NOERROR"
            coredns.process.signal(signal.SIGTERM)
            wait_until(lambda: rcode(coredns) == "SERVFAIL", LAMEDUCK, "the lame duck answers SERVFAIL", interval=0.02)
            assert headwater.records(SERVICE) == ["10.44.0.1"], "it is not Headwater that is away"


def test_until_the_signal_everything_is_answered(tmp_path: Path) -> None:
    """During `preStop` CoreDNS does not know yet that it will be stopped."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with Headwater(tmp_path, "--manifests", manifest) as headwater:
        text = COREFILE.format(stanza=headwater.grpc_corefile_stanza(), port=free_port(), seconds=0)
        with CoreDNS(tmp_path, text) as coredns:
            assert {rcode(coredns) for _ in range(50)} == {"NOERROR"}
            coredns.process.signal(signal.SIGTERM)
            wait_until(lambda: rcode(coredns) == "none", SETTLE, "it ends at once")
