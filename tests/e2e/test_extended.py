"""`--extended-errors` through the real CoreDNS, as dig shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.test_explain import DOWN, MORE
from tests.e2e.test_supervisor import MANIFEST
from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.coredns

NONE_READY: Final = "EDE: 0 (Other): (default/down: 1 endpoint, none ready)"


def dig(port: int, *arguments: str) -> str:
    """What dig prints."""
    binary = shutil.which("dig")
    if binary is None:
        pytest.skip("dig is not installed")
    command = [binary, "@127.0.0.1", "-p", str(port), "+tries=1", "+time=5", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def told(text: str) -> str:
    """The line with the extended error; "" without one."""
    found = re.search(r"^; (EDE: .*)$", text, re.MULTILINE)
    return "" if found is None else found[1]


@pytest.fixture(scope="module")
def headwater(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headwater]:
    folder: Path = tmp_path_factory.mktemp("extended")
    (folder / "manifest.yaml").write_text(MANIFEST + MORE)
    with Headwater(folder, "--manifests", folder / "manifest.yaml", "--extended-errors") as running:
        yield running


def test_dig_shows_the_reason_through_coredns(headwater: Headwater, tmp_path: Path) -> None:
    with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns:
        text = dig(coredns.port, DOWN)
        assert "status: NXDOMAIN" in text
        assert told(text) == NONE_READY
        assert told(dig(coredns.port, DOWN, "+tcp")) == NONE_READY
        # A client without EDNS gets none, and the same reply otherwise.
        plain = dig(coredns.port, DOWN, "+noedns")
        assert ("status: NXDOMAIN" in plain, "OPT PSEUDOSECTION" in plain) == (True, False)
        text = dig(coredns.port, f"nothing.{DOWN.partition('.')[2]}")
        assert told(text) == "EDE: 0 (Other): (default/nothing: no such Service)"
        assert told(dig(coredns.port, "db.nowhere.svc.cluster.local")) == ""
        assert told(dig(coredns.port, "db.default.svc.cluster.local")) == ""


def test_no_reply_is_truncated_for_a_reason(headwater: Headwater, tmp_path: Path) -> None:
    with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns:
        name = f"{'x' * 63}.{'y' * 63}.{DOWN}"
        for size in (512, 1232):
            text = dig(coredns.port, name, f"+bufsize={size}", "+ignore")
            assert ("status: NXDOMAIN" in text, " tc" in text.partition("flags:")[2].partition(";")[0]) == (True, False)


@pytest.mark.parametrize(
    ("cache", "passed"),
    [
        ("cache 30", False),
        ("cache 30 {\n        disable denial cluster.local\n    }", False),
        ("cache 30 example.org", True),
    ],
)
def test_a_cache_in_the_zones_own_block_takes_reasons_away(
    headwater: Headwater, tmp_path: Path, cache: str, passed: bool
) -> None:
    """CoreDNS's cache drops the OPT record of every reply that it passes on, and adds its own."""
    block = headwater.grpc_corefile_stanza()
    with CoreDNS(tmp_path, block.replace("    errors\n", f"    errors\n    {cache}\n", 1)) as coredns:
        assert [told(dig(coredns.port, DOWN)) for _ in range(2)] == [NONE_READY if passed else ""] * 2
