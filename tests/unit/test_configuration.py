"""Flags override variables, these override the file, and that
overrides defaults; errors say which.
"""

from __future__ import annotations

import os
import string
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from headwater.commands.cli import main
from headwater.commands.config import render, toml
from headwater.settings.configuration import Configuration, configure
from headwater.settings.error import SettingsError
from headwater.settings.file import MAX_SIZE, lines_of, read
from headwater.settings.options import OPTIONS, TOPICS, Option
from headwater.settings.parse import duration_text, parse_duration
from headwater.settings.settings import Settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some set."""
    for name in list(os.environ):
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a configuration; it is relative, and so short in messages."""
    monkeypatch.chdir(tmp_path)
    for name in ("config", "tls"):
        (tmp_path / name).touch()
    return Path("headwater.toml")


# Precedence

#: flag: a text for the flag, another for its variable, TOML for a file; and the meaning of each.
SAID: dict[str, tuple[str, str, str, Any, Any, Any]] = {
    "--kubeconfig": ("config", "tls", '"tls"', "config", "tls", "tls"),
    "--context": ("a", "b", '"c"', "a", "b", "c"),
    "--manifests": ("config", "tls config", '["tls"]', ("config",), ("tls", "config"), ("tls",)),
    "--list": ("pages", "stream", '"stream"', "pages", "stream", "stream"),
    "--zone": ("A.org", "b.org c.org", '["d.org", "E.org."]', ("a.org",), ("b.org", "c.org"), ("d.org", "e.org")),
    "--pods": ("insecure", "verified", '"verified"', "insecure", "verified", "verified"),
    "--namespace": ("a", "b c", "[]", ("a",), ("b", "c"), ()),
    "--zonal": ("", "no", "true", True, False, True),
    "--no-zonal": ("", "yes", "true", False, True, True),
    "--ttl": ("0", "30", "60", 0, 30, 60),
    "--max-staleness": ("0", "5m", '"90s"', 0.0, 300.0, 90.0),
    "--workers": ("1", "3", "4", 1, 3, 4),
    "--labels": ("", "a=b", '"c=d"', "", "a=b", "c=d"),
    "--admin": ("off", "127.0.0.1:1", '"[::1]:2"', "None", "127.0.0.1:1", "[::1]:2"),
    "--dns": ("off", "127.0.0.1:1", '"[::1]:2"', "None", "127.0.0.1:1", "[::1]:2"),
    "--state-dir": ("/a", "/b", '"/c"', "/a", "/b", "/c"),
    "--log-level": ("debug", "error", '"warning"', "debug", "error", "warning"),
}


@pytest.mark.parametrize("flag", SAID)
def test_a_flag_goes_before_its_variable_and_a_variable_before_the_file(flag: str, file: Path) -> None:
    text, variable, in_file, from_flag, from_variable, from_file = SAID[flag]
    name = flag.replace("--no-", "--")
    (option,) = [option for option in OPTIONS if option.flag == name]
    file.write_text(f"\n[{option.topic.name}]\n{option.key} = {in_file}\n")
    given_flag: object = not flag.startswith("--no-") if option.kind == "switch" else (text,) if option.many else text

    def value(flags: dict[str, object], variables: dict[str, str], path: str | None) -> tuple[Any, str]:
        found = configure(flags, variables, path)
        setting = getattr(found.settings, option.field)
        return str(setting) if name in ("--admin", "--dns") else setting, found.origins[name].where

    variables = {option.variable: variable}
    assert value({name: given_flag}, variables, str(file)) == (from_flag, name)
    assert value({}, variables, str(file)) == (from_variable, option.variable)
    assert value({}, {option.variable: ""}, str(file)) == (from_file, "headwater.toml:3")
    assert value({}, {"HEADWATER_CONFIG": str(file)}, None) == (from_file, "headwater.toml:3")
    assert value({}, {}, None)[1] == "default"


def test_the_flag_config_goes_before_its_variable(file: Path) -> None:
    file.write_text("[answers]\nttl = 1\n")
    Path("other.toml").write_text("[answers]\nttl = 2\n")
    found = configure({}, {"HEADWATER_CONFIG": "other.toml"}, str(file))
    assert found.settings.ttl == 1


@pytest.mark.parametrize("command", ["serve", "check", "corefile", "config"])
def test_every_command_reads_the_file(
    command: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.commands.serve.serve", lambda found: print(found.zones))
    # Such an address cannot be bound; `check` says so and leaves nothing behind.
    file.write_text('[served]\nzone = ["read.example"]\n[transport]\nlisten = "192.0.2.1:5300"\n')
    main([command, "--config", str(file)])
    shown = capsys.readouterr().out
    assert "192.0.2.1:5301" in shown if command == "check" else "read.example" in shown


# Errors


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[served]\nzoen = ['a']\n", "--config: headwater.toml:2: [served] has no key 'zoen': do you mean zone?"),
        ("[served]\n\nxyzzy = 1\n", "--config: headwater.toml:3: [served] has no key 'xyzzy'"),
        ("[state]\nstate_dir = '/a'\n", ("--config: headwater.toml:2: [state] has no key 'state_dir': do you mean "
         "state-dir?")),
        ("[transports]\n", "--config: headwater.toml:1: there is no table 'transports': do you mean transport?"),
        ("[x]\n", ("--config: headwater.toml:1: there is no table 'x': the tables are sources, served, answers, "
         "transport, state, peers, observing")),
        ("# x\nworkers = 2\n", "--config: headwater.toml:2: workers belongs in [transport]"),
        ("[served]\nworkers = 2\n", "--config: headwater.toml:2: workers belongs in [transport], not in [served]"),
        ("state = 2\n", "--config: headwater.toml:1: 'state' is a table: write [state]"),
        ("[[state]]\nstate-dir = '/a'\n", "--config: headwater.toml:1: 'state' is a table: write [state]"),
        ("[answers]\nttl = 5s\n", "--config: headwater.toml:2: not valid TOML: "),
        ("[answers]\nttl = \n", "--config: headwater.toml:2: not valid TOML: invalid value"),
        ("[answers]\nttl = 1\nttl = 2\n", "--config: headwater.toml:3: not valid TOML: "),
        ("[answers]\nttl = 1\n\n[answers]\n", "--config: headwater.toml:4: not valid TOML: cannot declare"),
        ("[served]\nzone = [\n'a'\n", "--config: headwater.toml:3: not valid TOML: unclosed array"),
        ("[answers]\nttl = " + "9" * 5000, "--config: headwater.toml:1: not valid TOML: a number is too long"),
        ("x = " + "[" * 5000 + "]" * 5000, "--config: headwater.toml:1: not valid TOML: nested too deeply"),
        ("[answers]\nttl = '5'\n", ("--ttl: a whole number is expected, not a string (set by headwater.toml:2, "
         "[answers] ttl)")),
        ("[answers]\nttl = 5.0\n", "--ttl: a whole number is expected, not the number 5.0 (set by"),
        ("[answers]\nttl = true\n", "--ttl: a whole number is expected, not true (set by"),
        (f"[answers]\nttl = 0x{'f' * 9000}\n", "--ttl: a whole number is expected, not a number of more than 64 bits"),
        ("[answers]\nttl = -1\n", ("--ttl: -1 is not a TTL (0 to 2147483647 seconds) (set by headwater.toml:2, "
         "[answers] ttl)")),
        ("[answers]\nttl = 1979-05-27\n", "--ttl: a whole number is expected, not a date (set by"),
        ("[answers]\nttl.x = 1\n", "--ttl: a whole number is expected, not a table (set by"),
        ("[served]\nzone = 'a'\n", "--zone: an array of strings, as in [\"a\", \"b\"], is expected, not a string"),
        ("[served]\nzone = [1]\n", ("--zone: an array of strings, as in [\"a\", \"b\"], is expected, not an array of "
         "something else")),
        ("[served]\nzone = []\n", "--zone: at least one zone is needed (set by headwater.toml:2, [served] zone)"),
        ("[served]\nzonal = 1\n", "--zonal: true or false is expected, not the number 1 (set by"),
        ("[served]\nzonal = 'no'\n", "--zonal: true or false is expected, not a string (set by"),
        ("[served]\npods = ['insecure']\n", "--pods: a string, as in \"a\", is expected, not an array (set by"),
        ("[served]\npods = 'all'\n", "--pods: 'all' is not one of disabled, insecure, verified (set by"),
        ("[served]\n\nlabels = 'a b'\n", ("--labels: 'a b': 'b' stands where one of =, ==, !=, <, >, in, notin is "
         "expected (set by headwater.toml:3, [served] labels)")),
        ("[sources]\nkubeconfig = \"a\\u0000b\"\n", "--kubeconfig: a zero byte is in it (set by"),
        ("[sources]\nmanifests = ['tls', \"\\u0000\"]\n", "--manifests: a zero byte is in it (set by"),
        ("[sources]\nmanifests = ['gone']\n", "--manifests: 'gone' does not exist (set by"),
        ("", "--config: 'headwater.toml' is empty"),
        (" \n\n", "--config: 'headwater.toml' is empty"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_mistake_in_a_file_is_one_line_with_file_key_and_line(
    text: str, ends: str, error: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(text.replace("\n", ends).encode())
    assert main(["config", "--config", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"headwater: {error}")
    assert len(line) < 250


def test_a_file_that_is_none(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(path: str) -> str:
        assert main(["config", "--config", path]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert refused("gone.toml") == "headwater: --config: 'gone.toml' cannot be read: No such file or directory"
    assert refused(str(tmp_path)) == f"headwater: --config: {str(tmp_path)!r} cannot be read: Is a directory"
    assert refused("a\0b").startswith("headwater: --config: 'a\\x00b' cannot be read: embedded null byte")
    file.write_bytes(b"# \n# \xff\n")
    assert refused(str(file)) == "headwater: --config: headwater.toml:2: not UTF-8"
    file.write_bytes(b"#" * (MAX_SIZE + 1))
    assert refused(str(file)) == "headwater: --config: 'headwater.toml' is larger than 1 MiB: that is no configuration"
    assert refused("/dev/zero") == "headwater: --config: '/dev/zero' is larger than 1 MiB: that is no configuration"
    if os.geteuid():  # root may read everything
        file.chmod(0)
        assert refused(str(file)) == "headwater: --config: 'headwater.toml' cannot be read: Permission denied"


def test_a_large_file_of_any_shape_is_read_in_a_moment(file: Path) -> None:
    """No content makes the search for line numbers slow, or its recursion too deep."""
    keys = "a." * 1000 + "a"
    shapes = [
        f"{keys} = 1",
        f"[{keys}]",
        f"[served]\nzone = [{'[' * 100}{']' * 100}{',1' * 20_000}]",
        "\n" * (MAX_SIZE - 5) + "x = 1",
        '[served]\npods = """' + '"" ' * 200_000 + '"""',
        "x = [" + "\n1," * 20_000 + "]",
        "\n".join(f"x{number} = 1" for number in range(5_000)),
    ]
    for text in shapes:
        assert len(text) <= MAX_SIZE
        file.write_text(text)
        began = time.process_time()
        with pytest.raises(SettingsError):
            configure({}, {}, str(file))
        assert time.process_time() - began < 5.0, text[:20]


def test_a_byte_order_mark_and_comments_alone_are_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf# nothing is set\r\n")
    assert configure({}, {}, str(file)).settings == Settings()


def test_a_file_named_by_the_variable_is_named_so(file: Path) -> None:
    file.write_text("nope = 1\n")
    with pytest.raises(SettingsError) as refused:
        configure({}, {"HEADWATER_CONFIG": str(file)})
    assert str(refused.value).startswith("--config: headwater.toml:1: there is no table 'nope'")
    assert str(refused.value).endswith(" (set by HEADWATER_CONFIG)")


@pytest.mark.parametrize(
    ("flags", "variables", "text", "error"),
    [
        ({"--workers": "0"}, {}, "", "--workers: 0 is not between 1 and 15"),
        ({}, {"HEADWATER_WORKERS": "0"}, "", "--workers: 0 is not between 1 and 15 (set by HEADWATER_WORKERS)"),
        ({"--workers": "x"}, {"HEADWATER_WORKERS": "0"}, "", "--workers: 'x' is not a whole number"),
        ({}, {"HEADWATER_ZONAL": "maybe"}, "", "--zonal: 'maybe' is neither true nor false (set by HEADWATER_ZONAL)"),
        ({"--manifests": ("tls",)}, {"HEADWATER_CONTEXT": "c"}, "",
         "--manifests: cannot be used together with --context (--context: set by HEADWATER_CONTEXT)"),
        ({}, {"HEADWATER_MANIFESTS": "tls"}, "[sources]\nkubeconfig = 'config'\n",
         ("--manifests: cannot be used together with --kubeconfig (--manifests: set by HEADWATER_MANIFESTS; "
         "--kubeconfig: set by headwater.toml:2, [sources] kubeconfig)")),
        ({"--listen": "127.0.0.1:65535"}, {}, "", ("--listen: 127.0.0.1:65535: 2 consecutive ports are needed from "
         "there (--workers: the default)")),
        ({}, {}, "[transport]\ntls-cert = 'tls'\n", ("--tls-key: a certificate and its key go together: --tls-cert is "
         "given (--tls-cert: set by headwater.toml:2, [transport] tls-cert)")),
        ({}, {"HEADWATER_MULTICLUSTER_ZONE": "cluster.local"}, "", ("--multicluster-zone: 'cluster.local' is a --zone "
         "too: a zone is named twice (--multicluster-zone: set by HEADWATER_MULTICLUSTER_ZONE; --zone: the default)")),
    ],
)  # fmt: skip
def test_an_error_says_where_the_values_came_from(
    flags: dict[str, object], variables: dict[str, str], text: str, error: str, file: Path
) -> None:
    file.write_text(text or "# nothing\n")
    with pytest.raises(SettingsError) as refused:
        configure(flags, variables, str(file))
    assert str(refused.value) == error


def test_an_error_found_later_says_so_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[served]\nignore-empty-service = true\n")
    assert main(["corefile", "--mode", "split", "--config", str(file)]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("headwater: --ignore-empty-service: ")
    assert line.endswith(" (set by headwater.toml:2, [served] ignore-empty-service)")


# Lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = 1\n[b]\nc = 2", {("a",): 1, ("b",): 2, ("b", "c"): 3}),
        ("# [x]\n\n  [b] # c = 1\n\n  c = 2\n", {("b",): 3, ("b", "c"): 5}),
        ('[b]\nc = """\nd = 1\n[e]\n"""\nf = 1', {("b",): 1, ("b", "c"): 2, ("b", "f"): 6}),
        ("[b]\nc = '''\nd = 1\n'''''\nf = 1", {("b",): 1, ("b", "c"): 2, ("b", "f"): 5}),
        ('[b]\nc = "\\"\\\\" # "\nf = \'\\\'', {("b",): 1, ("b", "c"): 2, ("b", "f"): 3}),
        ("[b]\nc = [ # ]\n  [1, 2], # [\n  ']',\n]\nf = {x = [1], y = 2}\ng=1", {
            ("b",): 1, ("b", "c"): 2, ("b", "f"): 6, ("b", "g"): 7}),
        ("b.c = 1\n'b'.\"d\" = 2\n[ 'e' . f ]\ng = 1\n[h]\ni=1", {
            ("b",): 1, ("b", "c"): 1, ("b", "d"): 2, ("e",): 3, ("e", "f"): 3, ("h",): 5, ("h", "i"): 6}),
        ('"a#b" = 1\n"[c]" = """"""\nd = 1', {("a#b",): 1, ("[c]",): 2, ("d",): 3}),
        ("a = {b = 1}\r\n\r\nc = 1\r\n", {("a",): 1, ("a", "b"): 1, ("c",): 3}),
    ],
)  # fmt: skip
def test_the_line_of_each_key(text: str, lines: dict[tuple[str, ...], int]) -> None:
    found = lines_of(text)
    assert {path: line for path, line in found.items() if len(path) < 3} == lines


_KEYS = st.text(string.ascii_letters + "-_", min_size=1, max_size=6)
_PIECES = st.lists(
    st.sampled_from(
        ['"', "'", '"""', "'''", "[", "]", "{", "}", "#", "\n", "\\", "\\\\", "=", ",", "a", "1", " ", '\\"']
    ),
    max_size=8,
).map("".join)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(_KEYS, st.lists(_PIECES, max_size=2) | _PIECES, max_size=3), st.data())
def test_the_line_of_each_key_among_any_strings(keys: dict[str, str | list[str]], data: st.DataObject) -> None:
    """Strings of quotes, brackets and line ends, in every notation that can hold them."""
    text = "[t]\n"
    expected: dict[tuple[str, ...], int] = {}
    for key, value in keys.items():
        text += data.draw(st.sampled_from(["", "\n", '# [x] = """ \'\n', "   \n"]))
        text += data.draw(st.sampled_from(["", " ", "\t"]))
        expected["t", key] = text.count("\n") + 1
        if isinstance(value, list):
            glue = data.draw(st.sampled_from([", ", ",\n  ", " # ]'\n, "]))
            written = f"[{glue.join(_written(item, data) for item in value)}]"
        else:
            written = _written(value, data)
        text += f"{key} = {written}{data.draw(st.sampled_from(['', ' ', ' # [']))}\n"
    assert tomllib.loads(text) == {"t": keys}, "the test writes TOML"
    assert lines_of(text) == {("t",): 1, **expected}


def _written(value: str, data: st.DataObject) -> str:
    forms = [toml(value, "--flag")]
    multi = value.replace("\\", "\\\\").replace('"', '\\"')
    forms.append(f'"""\n{multi}"""')
    forms.append('"""\n' + value.replace("\\", "\\\\").replace('"""', '""\\"') + '"""')
    if "'''" not in value:
        forms.append(f"'''\n{value}'''")
    if "'" not in value and "\n" not in value:
        forms.append(f"'{value}'")
    valid = [form for form in forms if _reads_as(form, value)]
    assert valid
    return data.draw(st.sampled_from(valid))


def _reads_as(form: str, value: str) -> bool:
    try:
        return bool(tomllib.loads(f"x = {form}")["x"] == value)
    except tomllib.TOMLDecodeError:
        return False


# headwater config


def everything(file: Path) -> dict[str, object]:
    """Return a value for every flag, other than its default."""
    given: dict[str, object] = {
        "--kubeconfig": "config", "--context": 'my "context"\\', "--list": "stream",
        "--zone": ("a.org", "B.org."), "--reverse-zone": ("10.96.0.0/12", "fd00::/8"),
        "--multicluster-zone": ("clusterset.local",), "--pods": "verified", "--namespace-labels": "team=db,\n\ttier!=é",
        "--labels": "x", "--endpoint-pod-names": True, "--zonal": True, "--ignore-empty-service": True, "--ttl": "0",
        "--negative-ttl": "7", "--max-staleness": "1h1m1.5s", "--upstream": ("192.0.2.1:53", "[::1]:53"),
        "--extended-errors": True, "--policy": "json:loads",
        "--client-option": "65518", "--zone-cidr": ("a=10.0.0.0/8", "b=fd00::/8"),
        "--client-nodes": True,
        "--listen": "127.0.0.1:1000", "--workers": "3", "--transport": "grpcio", "--tls-cert": "tls",
        "--tls-key": "tls", "--tls-client-ca": "tls", "--dns": "127.0.0.1:53", "--state-dir": "/a\x7f b",
        "--audit-interval": "0",
        "--second-opinion": "off", "--history": "0", "--peer-listen": "127.0.0.1:9354",
        "--seed": ("127.0.0.1:9355", "[::1]:9354"), "--peer-cert": "tls", "--peer-key": "tls", "--peer-ca": "tls",
        "--peer-token": "tls", "--admin": "off", "--admin-details": "all",
        "--log-level": "error", "--log-format": "json",
    }  # fmt: skip
    given["--namespace-labels"] = "team=db,\n\ttier!=e"
    assert set(given) == {option.flag for option in OPTIONS} - {"--manifests", "--namespace", "--listen-zone"}, (
        "a new option"
    )
    return given


def reread(configuration: Configuration, file: Path) -> Configuration:
    file.write_text(render(configuration))
    return configure({}, {}, str(file))


def test_what_is_printed_can_be_read_and_is_the_same(file: Path) -> None:
    for flags in ({}, everything(file), {
        "--manifests": ("tls", "config"), "--namespace": ("a", "b"), "--listen-zone": ("a=127.0.0.1:70", "b=unix:/b"),
    }):  # fmt: skip
        first = configure(flags, {})
        again = reread(first, file)
        assert again.settings == first.settings
        assert reread(again, file).settings == first.settings
        kept = {option.flag for option in OPTIONS if option.given(first.settings) is not None}
        origins = {flag for flag, origin in again.origins.items() if origin.where.startswith("headwater.toml:")}
        assert origins == kept


def test_where_each_value_comes_from_is_behind_it(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[answers]\nttl = 7\n\n[served]\nzonal = true\n")
    monkeypatch.setenv("HEADWATER_WORKERS", "3")
    assert main(["config", "--config", str(file), "--zone", "A.org", "--no-zonal"]) == 0
    shown = capsys.readouterr().out
    tables = tomllib.loads(shown)
    assert set(tables) == {topic.name for topic in TOPICS}
    assert tables["answers"]["ttl"] == 7
    lines = dict(line.split("  #", 1) for line in shown.splitlines() if "  #" in line)
    lines = {key.strip(): origin.strip() for key, origin in lines.items()}
    assert lines["ttl = 7"] == "headwater.toml:2"
    assert lines['zone = ["a.org"]'] == "--zone"
    assert lines["zonal = false"] == "--zonal"
    assert lines["workers = 3"] == "HEADWATER_WORKERS"
    assert lines["negative-ttl = 5"] == "default"
    assert lines["# kubeconfig ="] == "default: in-cluster"
    keys = [line.removeprefix("# ").partition(" =")[0] for line in lines]
    assert keys == [option.key for option in OPTIONS], "every option, in the order of the topics"


def test_a_path_of_several_lines_stays_a_comment(file: Path) -> None:
    odd = Path("x\nttl = 9 # .toml")
    odd.write_text("[answers]\nttl = 7\n")
    assert reread(configure({}, {}, str(odd)), file).settings.ttl == 7


def test_a_path_that_is_not_utf8_cannot_be_written(file: Path) -> None:
    name = os.fsdecode(b"/tmp/\xff")
    with pytest.raises(SettingsError, match=r"--state-dir: .* is not UTF-8"):
        render(configure({"--state-dir": name}, {}))


@given(st.integers(0, 10**12))
def test_a_duration_is_printed_as_it_is_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    if seconds < 99_999 * 3600:
        assert parse_duration(duration_text(seconds), "--flag") == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0"), (5.0, "5s"), (3600.0, "1h"), (5400.5, "1h30m0.5s")])
def test_a_duration_is_printed_as_people_write_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# The table of options


def test_the_table_has_every_setting_once_and_defaults_that_can_be_read() -> None:
    from dataclasses import fields

    assert sorted(option.field for option in OPTIONS) == sorted(item.name for item in fields(Settings))
    assert [option.topic for option in OPTIONS] == sorted((option.topic for option in OPTIONS), key=TOPICS.index)

    def value(option: Option) -> Any:
        return None if option.default is None else option.setting(option.default)

    for option in OPTIONS:
        assert value(option) == getattr(Settings(), option.field), option.flag


def test_the_example_sets_nothing_but_shows_every_key(file: Path) -> None:
    example = ROOT / "examples" / "headwater.toml"
    assert configure({}, {}, str(example)).settings == Settings()
    assert {entry.option.flag for entry in read(str(example))} == {
        option.flag for option in OPTIONS if option.default is not None
    }
    for option in OPTIONS:
        assert f"\n{option.key} = " in (text := example.read_text()) or f"\n#{option.key} = " in text, option.flag
