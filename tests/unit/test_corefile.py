"""The printed Corefile block follows the flags.

(tests/e2e/test_corefiles.py starts CoreDNS with it.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from headwater.commands.corefile import ClientTls, Mode, stanza, upstream
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.settings.validate import MAX_WORKERS

CHECKOUT = Path(__file__).resolve().parents[2]
REVERSE = ("in-addr.arpa", "ip6.arpa")


def directives(text: str) -> list[str]:
    """Return the lines without comments and indentation."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def settings(**changes: Any) -> Settings:
    return Settings(**changes)


def test_whole_zone_over_unix_sockets() -> None:
    assert directives(stanza(settings())) == [
        "cluster.local:53 {",
        "errors",
        "grpc . unix:///run/headwater/dns-0.sock unix:///run/headwater/dns-1.sock {",
        "policy round_robin",
        "}",
        "}",
    ]
    assert stanza(settings()).endswith("}\n")


def test_split_mode_puts_kubernetes_without_endpoints_in_front() -> None:
    lines = directives(stanza(settings(), mode="split"))
    assert lines[:6] == ["cluster.local:53 {", "errors", "kubernetes {", "noendpoints", "fallthrough", "}"]
    assert lines[6:] == directives(stanza(settings()))[2:]


@pytest.mark.parametrize(
    ("listen", "workers", "expected"),
    [
        ("unix:/run/h/dns.sock", 1, "unix:///run/h/dns.sock"),
        ("unix:/run/h/dns.sock", 2, "unix:///run/h/dns-0.sock unix:///run/h/dns-1.sock"),
        ("unix:///run/h/dns.sock", 1, "unix:///run/h/dns.sock"),
        ("127.0.0.1:5300", 2, "127.0.0.1:5300 127.0.0.1:5301"),
        ("10.1.2.3:5300", 1, "10.1.2.3:5300"),
        ("0.0.0.0:5300", 2, "127.0.0.1:5300 127.0.0.1:5301"),
        (":5300", 1, "127.0.0.1:5300"),
        ("localhost:5300", 1, "127.0.0.1:5300"),
        ("[::]:5300", 2, "[::1]:5300 [::1]:5301"),
        ("[fd00::7]:5300", 1, "[fd00::7]:5300"),
    ],
)
def test_every_answer_process_is_named_as_coredns_dials_it(listen: str, workers: int, expected: str) -> None:
    chosen = settings(listen=Address.parse(listen, "--listen"), workers=workers)
    assert f"grpc . {expected} {{" in directives(stanza(chosen))


def test_as_many_addresses_as_coredns_takes() -> None:
    line = next(line for line in directives(stanza(settings(workers=MAX_WORKERS))) if line.startswith("grpc"))
    assert len(re.findall(r"unix://\S+", line)) == MAX_WORKERS == 15


@pytest.mark.parametrize(
    ("zones", "reverse", "port", "expected"),
    [
        (("cluster.local",), (), 53, "cluster.local:53 {"),
        (("cluster.local", "k8s.example.org"), (), 53, "cluster.local:53 k8s.example.org:53 {"),
        (("cluster.local",), ("in-addr.arpa", "ip6.arpa"), 53, "cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {"),
        (("cluster.local",), ("44.10.in-addr.arpa",), 1053, "cluster.local:1053 44.10.in-addr.arpa:1053 {"),
        (("a.org", "10.in-addr.arpa"), ("10.in-addr.arpa",), 53, "a.org:53 10.in-addr.arpa:53 {"),
    ],
)
def test_one_block_for_all_zones(zones: tuple[str, ...], reverse: tuple[str, ...], port: int, expected: str) -> None:
    assert directives(stanza(settings(zones=zones, reverse_zones=reverse), port=port))[0] == expected


def test_a_multicluster_zone_is_in_the_block_and_not_in_coredns_own_plugin() -> None:
    chosen = settings(multicluster_zones=("clusterset.local",), reverse_zones=("10.in-addr.arpa",))
    lines = directives(stanza(chosen, mode="split"))
    assert lines[0] == "cluster.local:53 clusterset.local:53 10.in-addr.arpa:53 {"
    assert "kubernetes cluster.local 10.in-addr.arpa {" in lines


@pytest.mark.parametrize("mode", ["zone", "split"])
def test_reverse_names_that_are_not_here_go_on(mode: Mode) -> None:
    chosen = settings(multicluster_zones=("clusterset.local",), reverse_zones=("10.in-addr.arpa", "ip6.arpa"))
    text = stanza(chosen, mode=mode, port=1053, reverse_forward="10.0.0.2 10.0.0.3")
    first, second, third = text.split("\n\n")
    grpc = directives(stanza(settings()))[2:]
    assert directives(first)[0] == "cluster.local:1053 clusterset.local:1053 {"
    assert ("kubernetes cluster.local {" in directives(first)) == (mode == "split")
    assert directives(second) == [
        "10.in-addr.arpa:1053 ip6.arpa:1053 {",
        "errors",
        "forward . 127.0.0.1:5399 {",
        "max_fails 0",
        "next NXDOMAIN",
        "}",
        "forward . 10.0.0.2 10.0.0.3",
        "}",
    ]
    assert directives(third) == ["10.in-addr.arpa:5399 ip6.arpa:5399 {", "bind 127.0.0.1", "errors", *grpc]


def test_without_a_reverse_zone_there_is_nothing_to_forward() -> None:
    assert stanza(settings(), reverse_forward="/etc/resolv.conf") == stanza(settings())


@pytest.mark.parametrize("servers", ["", "  ", "{$RESOLVER}", "1.1.1.1 }"])
def test_servers_that_no_corefile_can_name_are_refused(servers: str) -> None:
    with pytest.raises(SettingsError, match=r"^--reverse-forward: "):
        stanza(settings(reverse_zones=REVERSE), reverse_forward=servers)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"namespaces": ("a", "b")}, "namespaces a b"),
        ({"labels": "app=db, tier in (b, a),x!=y"}, 'labels "app=db,tier in (a,b),x notin (y)"'),
        ({"namespace_labels": "team=db"}, "namespace_labels team=db"),
        ({"ttl": 30}, "ttl 30"),
        ({"ttl": 0}, "ttl 0"),
        ({"ttl": 86400}, "ttl 3600"),
    ],
)
def test_split_mode_tells_coredns_what_headwater_was_told(changes: dict[str, Any], expected: str) -> None:
    assert expected in directives(stanza(settings(**changes), mode="split"))
    assert expected not in directives(stanza(settings(**changes)))


@pytest.mark.parametrize(
    ("name", "context", "expected"),
    [
        ("config", None, "kubeconfig {}"),
        ("config", "admin@prod", "kubeconfig {} admin@prod"),
        ("my #1 config", "on site", 'kubeconfig "{}" "on site"'),
    ],
)
def test_split_mode_outside_the_cluster(name: str, context: str | None, expected: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.touch()
    lines = directives(stanza(settings(kubeconfig=str(file), context=context), mode="split"))
    assert expected.format(file) in lines


@pytest.mark.parametrize(
    ("changes", "mode", "flag"),
    [
        ({"listen": Address(path="/run/head water/dns.sock")}, "zone", "--listen"),
        ({"listen": Address(path="/run/{$HOME}/dns.sock")}, "zone", "--listen"),
        ({"listen": Address(path="/run/a#b/dns.sock")}, "split", "--listen"),
        ({"listen": Address(path="/run/a%2fb.sock")}, "zone", "--listen"),
        ({"context": "a{$B}"}, "split", "--context"),
        ({"context": 'a"b'}, "split", "--context"),
        ({"ignore_empty_service": True}, "split", "--ignore-empty-service"),
        ({"manifests": ("MANIFESTS",)}, "split", "--manifests"),
    ],
)
def test_what_no_corefile_can_say_is_refused_by_flag(
    changes: dict[str, Any], mode: Mode, flag: str, tmp_path: Path
) -> None:
    if "context" in changes:
        (tmp_path / "config").touch()
        changes = {**changes, "kubeconfig": str(tmp_path / "config")}
    if "manifests" in changes:
        changes = {"manifests": (str(tmp_path),)}
    with pytest.raises(SettingsError, match=f"^{flag}: ") as refused:
        stanza(settings(**changes), mode=mode)
    assert refused.value.flag == flag


def test_settings_that_split_mode_refuses_are_fine_for_the_whole_zone(tmp_path: Path) -> None:
    assert stanza(settings(manifests=(str(tmp_path),), ignore_empty_service=True)) == stanza(settings())


def test_upstream_of_a_wildcard_is_loopback() -> None:
    assert upstream(Address(host="0.0.0.0", port=1)) == "127.0.0.1:1"
    assert upstream(Address(host="::", port=1)) == "[::1]:1"


@pytest.mark.parametrize(
    ("file", "mode", "listen", "reverse"),
    [
        ("Corefile.zone", "zone", "127.0.0.1:5300", ()),
        ("Corefile.split", "split", "unix:/run/headwater/dns.sock", ()),
        ("Corefile.sidecar", "zone", "unix:/run/headwater/dns.sock", REVERSE),
    ],
)
def test_shipped_corefiles_have_the_printed_block(file: str, mode: Mode, listen: str, reverse: tuple[str, ...]) -> None:
    shipped = directives((CHECKOUT / "corefile" / file).read_text())
    block = shipped[: shipped.index(".:53 {")]
    chosen = settings(listen=Address.parse(listen, "--listen"), reverse_zones=reverse)
    printed = directives(stanza(chosen, mode=mode, reverse_forward="/etc/resolv.conf"))
    assert [line for line in block if not line.startswith("prometheus")] == printed


def test_deployed_corefile_is_the_shipped_one() -> None:
    """There are two copies, because kustomize reads no file outside its folder."""
    deployed = (CHECKOUT / "deploy" / "base" / "Corefile").read_text()
    assert deployed == (CHECKOUT / "corefile" / "Corefile.sidecar").read_text()


def test_split_mode_refuses_a_selector_that_coredns_has_not() -> None:
    with pytest.raises(SettingsError, match="--labels"):
        stanza(settings(labels="generation>3"), mode="split")


# TLS

FILES = {"tls_cert": "FILE", "tls_key": "FILE"}
MUTUAL = {**FILES, "tls_client_ca": "FILE"}


def with_files(changes: dict[str, str], folder: Path) -> Settings:
    (folder / "FILE").touch()
    return settings(**{name: str(folder / value) for name, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "tls", "expected"),
    [
        ({}, None, []),
        (FILES, None, ["tls"]),
        (FILES, ClientTls(ca="/ca.crt"), ["tls /ca.crt"]),
        (FILES, ClientTls(ca="/ca.crt", server_name="headwater"), ["tls /ca.crt", "tls_servername headwater"]),
        (MUTUAL, ClientTls("/ca.crt", "/tls.crt", "/tls.key"), ["tls /tls.crt /tls.key /ca.crt"]),
        (MUTUAL, ClientTls(cert="/a b.crt", key="/tls.key"), ['tls "/a b.crt" /tls.key']),
    ],
)
def test_tls_is_spoken_to_who_speaks_it(
    changes: dict[str, str], tls: ClientTls | None, expected: list[str], tmp_path: Path
) -> None:
    lines = directives(stanza(with_files(changes, tmp_path), tls=tls))
    start = lines.index("policy round_robin") + 1
    assert lines[start:] == [*expected, "}", "}"]


@pytest.mark.parametrize(
    ("changes", "tls", "flag"),
    [
        ({}, ClientTls(ca="/ca.crt"), "--tls-cert"),
        ({}, ClientTls(server_name="x"), "--tls-cert"),
        (FILES, ClientTls(cert="/tls.crt"), "--coredns-key"),
        (FILES, ClientTls(key="/tls.key"), "--coredns-cert"),
        (MUTUAL, None, "--coredns-cert"),
        (FILES, ClientTls(ca="/{$HOME}"), "--coredns-ca"),
        (FILES, ClientTls(server_name='a"b'), "--server-name"),
    ],
)
def test_tls_that_cannot_be_is_refused_by_flag(
    changes: dict[str, str], tls: ClientTls | None, flag: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=f"^{flag}: ") as refused:
        stanza(with_files(changes, tmp_path), tls=tls)
    assert refused.value.flag == flag
