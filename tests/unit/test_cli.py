"""The command line: help has every flag, each has a variable, and
errors are one line with the flag.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from dnslib import QTYPE, RR, A, DNSRecord
from headwater import __version__
from headwater.commands.cli import COMMANDS, cli, main
from headwater.commands.query import LookupFailed
from headwater.commands.serve import progress
from headwater.process.counters import AnswerSnapshot, Kind, ProcessView, WatchSnapshot
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress, ZoneCidr
from headwater.settings.settings import Settings
from headwater.supervise.claims import StartFailed, take_state_dir

ROOT = Path(__file__).resolve().parents[2]

SOURCE_FLAGS = {"--kubeconfig", "--context", "--manifests"}
LISTEN_FLAGS = {"--zone", "--reverse-zone", "--multicluster-zone", "--listen", "--workers"}
SERVE_FLAGS = {
    "--tls-cert", "--tls-key", "--tls-client-ca",
    "--transport", "--state-dir", "--admin", "--admin-details", "--dns",
    "--ttl", "--negative-ttl", "--pods", "--endpoint-pod-names",
    "--ignore-empty-service", "--namespace", "--log-level", "--log-format", "--zonal", "--namespace-labels",
    "--labels", "--upstream", "--list", "--max-staleness", "--extended-errors", "--audit-interval",
    "--second-opinion", "--history", "--policy", "--peer-listen", "--seed", "--peer-cert", "--peer-key", "--peer-ca",
    "--peer-token", "--listen-zone", "--zone-cidr", "--client-option", "--client-nodes",
}  # fmt: skip
ALL_FLAGS = SOURCE_FLAGS | LISTEN_FLAGS | SERVE_FLAGS


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some set."""
    for name in list(os.environ):
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return the settings with which `serve` would have started."""
    found: list[Settings] = []

    def take(settings: Settings) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr("headwater.commands.serve.serve", take)
    return found


def command_of(name: str) -> click.Command:
    assert isinstance(cli, click.Group)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def options(name: str) -> dict[str, click.Option]:
    return {
        parameter.opts[0]: parameter for parameter in command_of(name).params if isinstance(parameter, click.Option)
    }


# Help


SHARED = ALL_FLAGS | {"--config", "--help-all"}
COREFILE_FLAGS = {
    "--mode",
    "--by-zone",
    "--port",
    "--reverse-forward",
    "--coredns-ca",
    "--coredns-cert",
    "--coredns-key",
    "--server-name",
}


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("serve", SHARED),
        ("check", SHARED | {"--services", "--except", "--json"}),
        ("config", SHARED),
        ("corefile", SHARED | COREFILE_FLAGS),
        ("query", {"--server", "--timeout", "--short"}),
        ("demo", {"--coredns", "--no-coredns", "--port", "--once"}),
    ],
)
def test_help_explains_every_flag(command: str, flags: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help-all" if "--help-all" in flags else "--help"]) == 0
    shown = capsys.readouterr().out
    words = {word.strip("[],").replace("--[no-]", "--") for word in shown.split()}
    assert flags <= words, f"not mentioned: {sorted(flags - words)}"
    assert set(options(command)) == flags
    for flag, option in options(command).items():
        assert option.help, flag
        assert option.help.partition(" [")[0].endswith("."), flag


def test_short_help_counts_the_flags_that_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    short = capsys.readouterr().out
    assert main(["serve", "--help-all"]) == 0
    long = capsys.readouterr().out
    left_out = re.findall(r"^  (--\S+)", long, re.MULTILINE)
    left_out = [flag for flag in left_out if not re.search(rf"^  {re.escape(flag)} ", short, re.MULTILINE)]
    assert left_out
    assert f"--help-all shows {len(left_out)} more." in short
    assert "more." not in long


@pytest.mark.parametrize("name", [None, *(name for section in COMMANDS.values() for name in section)])
@pytest.mark.parametrize("columns", [80, 100, 300])
def test_help_is_aligned_and_fits(
    name: str | None, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for flag in ("--help", "--help-all"):
        if flag == "--help-all" and (name is None or flag not in options(name)):
            continue
        assert main([*([name] if name else []), flag]) == 0
        shown = capsys.readouterr().out
        assert shown.isascii() or "…" in shown, "what keeps words together is not printed"
        assert "\N{NO-BREAK SPACE}" not in shown
        assert max(map(len, shown.splitlines())) <= min(columns, 100)
        rows = re.findall(r"^  (?=-)((?:-\S, )?--\S+(?: [A-Za-z|:=]+)? +)\S", shown, re.MULTILINE)
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1, "texts begin in one column"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It imports none of them; each sentence in the list is the first
    one of the command's own help.
    """
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    modules = {file.stem for file in (ROOT / "backend" / "headwater" / "commands").glob("*.py")}
    listed = {name: text for section in COMMANDS.values() for name, text in section.items()}
    assert set(listed) == modules - {
        "__init__",
        "advice",
        "cli",
        "credentials",
        "help",
        "kubectl",
        "nodes",
        "options",
        "previewed",
        "quiet",
    }
    for name, text in listed.items():
        assert f" {name} {text}" in shown
        help_text = command_of(name).help
        assert help_text
        assert help_text.splitlines()[0] == text


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage: headwater" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["sevre"], "serve"),
        (["Query"], "query"),
        (["corefiel"], "corefile"),
        (["zzz"], "there are serve, demo, check, names, config, corefile, query, explain, history, compare"),
        (["serve", "--zon", "a"], "--zone"),
        (["serve", "--kubeconf", "a"], "--kubeconfig"),
        (["query", "--serve", "a"], "--server"),
    ],
)
def test_a_slip_is_told_what_is_near(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str], served: list[Settings]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: no ")
    assert line.removesuffix("?").endswith(meant)


def test_serve_has_a_flag_for_every_setting() -> None:
    names = {option.name for flag, option in options("serve").items() if flag in ALL_FLAGS}
    assert names == {item.name for item in fields(Settings)}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(rf"headwater {re.escape(__version__)} \(Python 3\.\d+\.\S+, Linux \S+\)\n", shown)
    assert metadata.version("headwater") == __version__


@pytest.mark.parametrize("arguments", [["config"], ["--help"], ["--version"]])
def test_output_that_nobody_reads_is_no_error(arguments: list[str]) -> None:
    """As in `headwater config | head -1`, with the pipe closed before the start."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "headwater", *arguments]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    finally:
        os.close(writer)
    assert (done.stderr, done.returncode) == ("", 1)


# Flags and variables


def test_defaults_of_the_command_line_are_those_of_settings(served: list[Settings]) -> None:
    assert main(["serve"]) == 0
    assert served == [Settings()]


VALUES: dict[str, tuple[str, Any]] = {
    "--kubeconfig": ("FILE", "FILE"),
    "--context": ("staging", "staging"),
    "--manifests": ("FOLDER", ("FOLDER",)),
    "--zone": ("Example.ORG.", ("example.org",)),
    "--listen": ("127.0.0.1:5300", Address(host="127.0.0.1", port=5300)),
    "--workers": ("3", 3),
    "--transport": ("grpcio", "grpcio"),
    "--tls-cert": ("FILE", "FILE"),
    "--tls-key": ("FILE", "FILE"),
    "--tls-client-ca": ("FILE", "FILE"),
    "--state-dir": ("/tmp/somewhere", "/tmp/somewhere"),
    "--admin": ("[::1]:9000", Address(host="::1", port=9000)),
    "--admin-details": ("all", "all"),
    "--dns": ("127.0.0.1:5353", Address(host="127.0.0.1", port=5353)),
    "--ttl": ("30", 30),
    "--negative-ttl": ("0", 0),
    "--pods": ("verified", "verified"),
    "--endpoint-pod-names": ("true", True),
    "--ignore-empty-service": ("1", True),
    "--namespace": ("prod", ("prod",)),
    "--reverse-zone": ("10.0.0.0/8", ("10.in-addr.arpa",)),
    "--multicluster-zone": ("ClusterSet.local", ("clusterset.local",)),
    "--zonal": ("yes", True),
    "--list": ("stream", "stream"),
    "--max-staleness": ("1h1m30s", 3690.0),
    "--extended-errors": ("true", True),
    "--audit-interval": ("0", 0.0),
    "--second-opinion": ("off", "off"),
    "--history": ("32MiB", 32 << 20),
    "--policy": ("json:loads", "json:loads"),
    "--namespace-labels": ("team=db", "team=db"),
    "--labels": ("app in (db, web)", "app in (db, web)"),
    "--upstream": ("192.0.2.1:53", (Address(host="192.0.2.1", port=53),)),
    "--peer-listen": ("127.0.0.1:9443", Address(host="127.0.0.1", port=9443)),
    "--seed": ("127.0.0.1:9443", (Address(host="127.0.0.1", port=9443),)),
    "--peer-cert": ("FILE", "FILE"),
    "--peer-key": ("FILE", "FILE"),
    "--peer-ca": ("FILE", "FILE"),
    "--peer-token": ("FILE", "FILE"),
    "--listen-zone": ("a=127.0.0.1:5400", (ZoneAddress("a", Address(host="127.0.0.1", port=5400)),)),
    "--zone-cidr": ("a=10.44.0.0/16", (ZoneCidr("a", "10.44.0.0/16"),)),
    "--client-option": ("65518", 65518),
    "--client-nodes": ("true", True),
    "--log-level": ("debug", "debug"),
    "--log-format": ("json", "json"),
}


#: The flags that a flag needs.
NEEDED = {
    "--tls-cert": ("--tls-key",),
    "--tls-key": ("--tls-cert",),
    "--tls-client-ca": ("--tls-cert", "--tls-key"),
    "--peer-cert": ("--peer-key",),
    "--peer-key": ("--peer-cert",),
    "--client-nodes": ("--client-option",),
}


def variable(flag: str) -> str:
    return "HEADWATER_" + flag.removeprefix("--").upper().replace("-", "_")


@pytest.mark.parametrize("flag", sorted(ALL_FLAGS))
@pytest.mark.parametrize("how", ["flag", "variable", "flag over variable"])
def test_every_flag_and_its_variable(
    flag: str, how: str, served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").touch()

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(placed, value))
        known = {"FILE": str(tmp_path / "config"), "FOLDER": str(tmp_path)}
        return known.get(value, value) if isinstance(value, str) else value

    text, expected = placed(VALUES[flag][0]), placed(VALUES[flag][1])
    option = options("serve")[flag]
    assert option.name
    arguments = ["serve"]
    for needed in NEEDED.get(flag, ()):
        arguments += [needed, placed(VALUES[needed][0])]
    if how == "variable":
        monkeypatch.setenv(variable(flag), text)
    else:
        arguments += [flag] if option.is_flag else [flag, text]
    if how == "flag over variable":
        monkeypatch.setenv(variable(flag), "no" if option.is_flag else "-- nonsense --")
    assert main(arguments) == 0
    assert getattr(served[0], str(option.name)) == expected


@pytest.mark.parametrize(
    ("flag", "text", "field", "expected"),
    [
        ("--zone", "a.org b.org", "zones", ("a.org", "b.org")),
        ("--namespace", "a b c", "namespaces", ("a", "b", "c")),
        ("--manifests", "FOLDER/a.yaml FOLDER/b.yaml", "manifests", ("FOLDER/a.yaml", "FOLDER/b.yaml")),
    ],
)
def test_what_may_be_repeated_is_separated_by_spaces_in_its_variable(
    flag: str, text: str, field: str, expected: tuple[str, ...], served: list[Settings], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()
    text = text.replace("FOLDER", str(tmp_path))
    wanted = tuple(value.replace("FOLDER", str(tmp_path)) for value in expected)
    monkeypatch.setenv(variable(flag), text)
    main(["serve"])
    monkeypatch.delenv(variable(flag))
    main(["serve", *(part for value in text.split() for part in (flag, value))])
    assert [getattr(settings, field) for settings in served] == [wanted, wanted]


@pytest.mark.parametrize("value", ["off"])
def test_no_admin_page(value: str, served: list[Settings]) -> None:
    assert main(["serve", "--admin", value]) == 0
    assert served[0].admin is None


def test_the_variables_that_kubernetes_sets_for_a_service_named_headwater_are_none_of_ours(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod has such variables (HEADWATER_PORT=tcp://…) for every Service of its namespace."""
    for service in ("HEADWATER", "HEADWATER_DNS", "HEADWATER_ADMIN"):
        for suffix in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_DNS", "PORT", "PORT_53_TCP", "PORT_53_TCP_PORT",
                       "PORT_53_TCP_PROTO", "PORT_53_TCP_ADDR"):  # fmt: skip
            monkeypatch.setenv(f"{service}_{suffix}", "tcp://10.0.0.1:53")
    assert main(["serve"]) == 0
    assert served == [Settings()]
    assert main(["corefile"]) == 0


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["serve", "--nope"], "--nope"),
        (["serve", "--workers", "two"], "--workers"),
        (["serve", "--workers", "0"], "--workers"),
        (["serve", "--workers"], "--workers"),
        (["serve", "--pods", "all"], "--pods"),
        (["serve", "--transport", "carrier-pigeon"], "--transport"),
        (["serve", "--log-level", "loud"], "--log-level"),
        (["serve", "--log-format", "xml"], "--log-format"),
        (["serve", "--ttl", "-1"], "--ttl"),
        (["serve", "--ttl", "5s"], "--ttl"),
        (["serve", "--negative-ttl", str(2**31)], "--negative-ttl"),
        (["serve", "--listen", "5300"], "--listen"),
        (["serve", "--listen", "unix:/"], "--listen"),
        (["serve", "--listen", "127.0.0.1:65535"], "--listen"),
        (["serve", "--admin", "nowhere"], "--admin"),
        (["serve", "--admin", "unix:/run/a.sock"], "--admin"),
        (["serve", "--dns", "53"], "--dns"),
        (["serve", "--zone", "a..b"], "--zone"),
        (["serve", "--zone", "a.org", "--zone", "A.org."], "--zone"),
        (["serve", "--namespace", "A"], "--namespace"),
        (["serve", "--manifests", "/nonexistent/folder"], "--manifests"),
        (["serve", "--manifests", "/", "--context", "c"], "--manifests"),
        (["serve", "superfluous"], "superfluous"),
        (["check", "--nope"], "--nope"),
        (["check", "--manifests", "/nonexistent/folder"], "--manifests"),
        (["corefile", "--mode", "half"], "--mode"),
        (["corefile", "--port", "0"], "--port"),
        (["corefile", "--listen", "unix:/run/a b.sock"], "--listen"),
        (["corefile", "--mode", "split", "--ignore-empty-service"], "--ignore-empty-service"),
        (["query"], "NAME"),
        (["query", "a.org", "NOTYPE"], "TYPE"),
        (["query", "a.org", "TYPE65536"], "TYPE"),
        (["query", "a.org", "TYPE-1"], "TYPE"),
        (["query", "a" * 64], "NAME"),
        (["query", ".".join(["a" * 63] * 5)], "NAME"),
        (["query", "a.org", "--server", "nowhere"], "--server"),
        (["query", "a.org", "--timeout", "soon"], "--timeout"),
        (["demo", "--port", "70000"], "--port"),
        (["serve", "--zonal=yes"], "--zonal"),
        (["config", "--workers", "9" * 5000], "--workers"),
        (["nope"], "nope"),
        (["--nope"], "--nope"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(
    arguments: list[str], flag: str, capsys: pytest.CaptureFixture[str], served: list[Settings]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("headwater: ")
    assert flag in line
    assert not served


def test_a_mistake_in_a_variable_names_its_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_WORKERS", "many")
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "headwater: --workers: 'many' is not a whole number (set by HEADWATER_WORKERS)"


@pytest.mark.parametrize("problem", ["--state-dir: in use", "--admin: 127.0.0.1:9353: Address already in use"])
def test_a_start_that_fails_is_one_line_and_exit_code_1(
    problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Settings) -> None:
        raise StartFailed(problem)

    monkeypatch.setattr("headwater.supervise.supervisor.Supervisor", refuse)
    monkeypatch.setattr("headwater.process.log.configure", lambda *_: None)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err == f"headwater: {problem}\n"


class Starting:
    """A supervisor whose answer process is ready at the third look."""

    settings = Settings()

    def __init__(self) -> None:
        self.looked = 0

    async def refresh(self) -> None:
        self.looked += 1

    def views(self) -> list[ProcessView]:
        watch = WatchSnapshot(ready=True, objects={"services": 12_000, "pods": 0})
        answer = AnswerSnapshot(ready=self.looked > 2)
        return [
            ProcessView(Kind.WATCH, "watch", True, 0, watch, None),
            ProcessView(Kind.ANSWER, "answer 0", True, 0, answer, None),
        ]


def test_on_a_terminal_serve_says_when_it_is_ready_and_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    starting: Any = Starting()
    asyncio.run(progress(starting))
    assert starting.looked == 3
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "Ready: 12,000 services. Ask:",
        "  headwater query NAME --server unix:/run/headwater/dns-0.sock",
    ]


# corefile


def test_corefile_says_what_the_flags_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corefile", "--zone", "A.org", "--zone", "b.org", "--listen", "127.0.0.1:5300", "--workers", "3"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines[0] == "a.org:53 b.org:53 {"
    assert "grpc . 127.0.0.1:5300 127.0.0.1:5301 127.0.0.1:5302 {" in lines
    assert lines[-1] == "}"


def test_corefile_takes_the_flags_of_serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command line with another command word configures CoreDNS for that instance."""
    monkeypatch.setenv("HEADWATER_TTL", "30")
    assert main(["corefile", "--namespace", "prod", "--mode", "split", "--port", "1053"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "cluster.local:1053 {" in lines
    assert "ttl 30" in lines
    assert "namespaces prod" in lines


# query


@pytest.fixture
def dead() -> Iterator[str]:
    """Yield an address that is bound, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_query_without_a_server_is_one_line_and_exit_code_1(
    kind: str, dead: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = dead if kind == "tcp" else f"unix:{tmp_path}/dns.sock"
    assert main(["query", "a.org", "--server", server, "--timeout", "5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    reason = {"tcp": "Connection refused", "unix": "No such file or directory"}[kind]
    assert line.startswith(f"headwater: {server}: UNAVAILABLE: {reason}. Is `headwater serve` running")


def answering(reply: bytes | None, monkeypatch: pytest.MonkeyPatch) -> list[DNSRecord]:
    """Fake a server that sends `reply`, or one address. Return the list of its questions."""
    asked: list[DNSRecord] = []

    def exchange(message: bytes, server: Address, timeout: float) -> bytes:
        query = DNSRecord.parse(message)
        asked.append(query)
        if reply is not None:
            return reply
        answer = query.reply(ra=0, aa=1)
        answer.add_answer(RR(query.q.qname, QTYPE.A, ttl=5, rdata=A("10.44.0.7")))
        return bytes(answer.pack())

    monkeypatch.setattr("headwater.commands.query.exchange", exchange)
    return asked


def test_query_prints_the_reply_as_dig_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(None, monkeypatch)
    assert main(["query", "web.default.svc.cluster.local", "aaaa", "--server", "127.0.0.1:5300"]) == 0
    shown = capsys.readouterr().out
    assert "status: NOERROR" in shown
    assert "flags: qr aa rd; QUERY: 1, ANSWER: 1," in shown
    assert "web.default.svc.cluster.local. 5       IN      A       10.44.0.7" in shown
    assert ";; SERVER: 127.0.0.1:5300" in shown
    assert (str(asked[0].q.qname), asked[0].q.qtype) == ("web.default.svc.cluster.local.", QTYPE.AAAA)


def test_query_short_prints_the_data_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answering(None, monkeypatch)
    assert main(["query", "a.org", "--short"]) == 0
    assert capsys.readouterr().out == "10.44.0.7\n"


@pytest.mark.parametrize("short", [[], ["--short"]])
@pytest.mark.parametrize("reply", [b"", b"\0\1\2", b"\0" * 11, b"\0\0\x80\0\0\1\0\1\0\0\0\0\xc0\x0c"])
def test_query_of_a_server_that_speaks_no_dns(
    short: list[str], reply: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(reply, monkeypatch)
    assert main(["query", "a.org", *short]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "not a DNS message" in line


def test_query_reads_the_server_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[Address] = []

    def exchange(message: bytes, server: Address, timeout: float) -> bytes:
        servers.append(server)
        raise LookupFailed("enough")

    monkeypatch.setattr("headwater.commands.query.exchange", exchange)
    monkeypatch.setenv("HEADWATER_SERVER", "127.0.0.1:1")
    assert main(["query", "a.org"]) == 1
    assert servers == [Address(host="127.0.0.1", port=1)]


# check

MANIFEST = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://{server}"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
users: [{{name: u, user: {{token: t}}}}]
current-context: x
"""


@pytest.fixture
def free(tmp_path: Path) -> list[str]:
    """Return flags that need nothing of this machine."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "a.yaml").write_text(MANIFEST)
    return ["--manifests", str(tmp_path / "manifests"), "--state-dir", str(tmp_path / "state"),
            "--listen", f"unix:{tmp_path}/dns.sock", "--admin", "127.0.0.1:0"]  # fmt: skip


def test_check_of_what_is_fine(free: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *free]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    text = "\n".join(lines)
    for part in ("source", "a.yaml", "2 objects", "state directory", "dns-0.sock", "dns-1.sock", "bind admin"):
        assert part in text
    assert len(lines) == 6, "one line each"


def test_check_says_what_coredns_does_to_sizes_where_it_adds_the_option(
    free: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *free, "--client-option", "65518"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "client option" in line]
    for part in (
        "no client's place is known", "edns0 local set 0xffee {client_ip}", "no `cache`", "over 512 bytes without TC"
    ):  # fmt: skip
        assert part in line
    assert main(["check", *free, "--client-option", "65518", "--zone-cidr", "a=10.0.0.0/8"]) == 0
    assert "no client's place is known" not in capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a check that fails, and return its only line with FAILED."""
    assert main(["check", *arguments]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "FAILED ")) for line in lines), "one line each"
    (line,) = [line for line in lines if line.startswith("FAILED")]
    assert len(lines) > 1, "the others are tried all the same"
    return line


def test_check_of_a_bad_manifest(free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifests" / "bad.yaml").write_text("kind: Service\nmetadata: [\n")
    assert "bad.yaml:3: not valid YAML" in failed(capsys, *free)


def test_check_of_a_state_directory_that_is_a_file(
    free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").touch()
    assert "--state-dir" in failed(capsys, *free)


@pytest.mark.parametrize("flag", ["--admin", "--dns", "--listen"])
def test_check_of_an_address_that_is_taken(
    flag: str, free: list[str], dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failed(capsys, *free, flag, dead, "--workers", "1")
    assert dead in line
    assert "Address already in use" in line


def test_check_of_a_socket_where_somebody_serves(
    free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/dns-1.sock")
        other.listen()
        line = failed(capsys, *free)
    assert "dns-1.sock" in line
    assert "another process serves" in line


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("trouble", ["a server", "a file", "a folder that is a file", "a name that is not an address"])
def test_check_says_of_an_address_what_serve_would(
    trouble: str, transport: str, free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is the same, because the code is."""
    listen = Address(path=f"{tmp_path}/dns.sock")
    with socket.socket(socket.AF_UNIX) as other:
        match trouble:
            case "a server":
                other.bind(str(listen.path))
                other.listen()
            case "a file":
                Path(str(listen.path)).touch()
            case "a folder that is a file":
                (tmp_path / "folder").touch()
                listen = Address(path=f"{tmp_path}/folder/dns.sock")
            case _:
                listen = Address(host="192.0.2.1", port=5300)  # TEST-NET-1 (RFC 5737): nobody's
        arguments = ["--listen", str(listen), "--workers", "1", "--transport", transport]
        line = failed(capsys, *free, *arguments)
        command = [sys.executable, "-m", "headwater", "serve", *free, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (1, 2)
    said = done.stderr.splitlines()[-1].removeprefix("headwater: ")
    assert said.startswith("--listen: ")
    assert line.endswith(said)


def test_check_leaves_nothing_behind(free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen = tmp_path / "run" / "headwater" / "dns.sock"
    arguments = [*free, "--listen", f"unix:{listen}", "--dns", "127.0.0.1:0"]
    before = {*tmp_path.rglob("*"), tmp_path / "state"}
    for _ in range(2):
        assert main(["check", *arguments]) == 0
        assert set(tmp_path.rglob("*")) == before
    listen.parent.mkdir(parents=True)
    assert main(["check", *arguments]) == 0
    assert set(tmp_path.rglob("*")) == before | {listen.parent.parent, listen.parent}, "what was there stays"


def test_check_beside_an_instance_that_runs(
    free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with take_state_dir(tmp_path / "state"):
        line = failed(capsys, *free)
    assert line.endswith(f"--state-dir: {tmp_path}/state is in use by another headwater (process {os.getpid()})")
    assert main(["check", *free]) == 0


def test_check_says_where_a_bad_value_comes_from(
    free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f"{tmp_path}/dns.sock").touch()
    monkeypatch.setenv("HEADWATER_LISTEN", f"unix:{tmp_path}/dns.sock")
    line = failed(capsys, *free[:4], "--admin", "off", "--workers", "1")
    assert line.endswith("dns.sock is there and is not a socket (set by HEADWATER_LISTEN)")


def test_check_of_a_cluster_that_is_not_there(
    free: list[str], dead: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(KUBECONFIG.format(server=dead))
    assert main(["check", "--kubeconfig", str(config), "--pods", "verified", *free[2:]]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "FAILED ")) for line in lines), "one line each"
    bad = [line for line in lines if line.startswith("FAILED")]
    assert [line.split()[1:3] for line in bad] == [
        ["list", resource] for resource in ("namespaces", "services", "endpointslices", "pods")
    ]
    assert all(dead in line for line in bad)
    assert any(line.startswith("ok") and "credentials" in line and dead in line for line in lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a kubeconfig"),
        ("[", "not valid YAML"),
        ("current-context: x\ncontexts: []\nclusters: []\n", "no context 'x'"),
        ("\0", "not valid YAML"),
    ],
)
def test_check_of_a_bad_kubeconfig(
    text: str, problem: str, free: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    assert main(["check", "--kubeconfig", str(config), *free[2:]]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "FAILED ")) for line in lines), "one line each"
    source = next(line for line in lines if " source " in line)
    assert source.startswith("FAILED")
    assert "--kubeconfig" in source
    assert problem in source
