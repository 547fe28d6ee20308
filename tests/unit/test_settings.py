"""Refused settings by flag; the answer processes' addresses; settings
that invalidate stored records.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.parse import parse_reverse_zone, parse_zone
from headwater.settings.places import ZoneCidr
from headwater.settings.settings import Settings
from headwater.settings.validate import MAX_WORKERS

FLAG = "--flag"
LABEL_63 = "a" * 63
#: Four labels of 253 characters, the longest name that fits 255 bytes in wire format.
NAME_253 = ".".join([LABEL_63] * 3 + ["b" * 61])


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("unix:/run/h/dns.sock", Address(path="/run/h/dns.sock"), "unix:/run/h/dns.sock"),
        ("unix:///run/h/dns.sock", Address(path="/run/h/dns.sock"), "unix:/run/h/dns.sock"),
        ("unix:/run/with space", Address(path="/run/with space"), "unix:/run/with space"),
        ("127.0.0.1:5300", Address(host="127.0.0.1", port=5300), "127.0.0.1:5300"),
        (":5300", Address(host="0.0.0.0", port=5300), "0.0.0.0:5300"),
        ("localhost:5300", Address(host="127.0.0.1", port=5300), "127.0.0.1:5300"),
        ("[::1]:5300", Address(host="::1", port=5300), "[::1]:5300"),
        ("[::]:5300", Address(host="::", port=5300), "[::]:5300"),
        ("[fe80::1%eth0]:53", Address(host="fe80::1%eth0", port=53), "[fe80::1%eth0]:53"),
        ("127.0.0.1:0", Address(host="127.0.0.1", port=0), "127.0.0.1:0"),
        ("127.0.0.1:65535", Address(host="127.0.0.1", port=65535), "127.0.0.1:65535"),
    ],
)
def test_an_address_is_a_unix_path_or_host_and_port(text: str, expected: Address, shown: str) -> None:
    parsed = Address.parse(text, FLAG)
    assert parsed == expected
    assert str(parsed) == shown
    assert Address.parse(shown, FLAG) == expected, "what is printed can be given again"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither"),
        ("5300", "neither"),
        ("/run/dns.sock", "neither"),
        ("127.0.0.1:", "neither"),
        ("127.0.0.1:dns", "neither"),
        ("127.0.0.1:-1", "neither"),
        ("127.0.0.1:\uff15\uff13", "neither"),
        ("127.0.0.1:65536", "not a port"),
        pytest.param("127.0.0.1:" + "9" * 5000, "not a port", id="more digits than int() takes"),
        ("::1:5300", "brackets"),
        ("example.org:53", "not an IP address"),
        ("256.0.0.1:53", "not an IP address"),
        ("[::g]:53", "not an IP address"),
        ("unix:run/dns.sock", "absolute path"),
        ("unix:", "absolute path"),
        ("unix:/", "absolute path"),
        ("unix:///", "absolute path"),
        pytest.param("unix:/" + "a" * 104, "at most", id="a path that sun_path cannot hold"),
        pytest.param("unix:/" + "ä" * 60, "at most", id="a path counted in bytes"),
    ],
)
def test_another_address_is_refused_by_flag(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"^{FLAG}: .*{problem}") as refused:
        Address.parse(text, FLAG)
    assert refused.value.flag == FLAG


@pytest.mark.parametrize(
    ("text", "workers", "expected"),
    [
        ("unix:/run/h/dns.sock", 1, ["unix:/run/h/dns.sock"]),
        ("unix:/run/h/dns.sock", 2, ["unix:/run/h/dns-0.sock", "unix:/run/h/dns-1.sock"]),
        ("unix:/run/h.d/dns", 2, ["unix:/run/h.d/dns-0", "unix:/run/h.d/dns-1"]),
        ("unix:/run/a.b.sock", 2, ["unix:/run/a.b-0.sock", "unix:/run/a.b-1.sock"]),
        ("127.0.0.1:5300", 1, ["127.0.0.1:5300"]),
        ("127.0.0.1:5300", 3, ["127.0.0.1:5300", "127.0.0.1:5301", "127.0.0.1:5302"]),
        ("[::1]:5300", 2, ["[::1]:5300", "[::1]:5301"]),
        ("127.0.0.1:65534", 2, ["127.0.0.1:65534", "127.0.0.1:65535"]),
    ],
)
def test_every_answer_process_has_an_address_of_its_own(text: str, workers: int, expected: list[str]) -> None:
    settings = Settings(listen=Address.parse(text, "--listen"), workers=workers)
    assert [str(address) for address in settings.listen_addresses()] == expected


def test_the_longest_path_has_room_for_every_worker() -> None:
    settings = Settings(listen=Address.parse("unix:/" + "a" * 103, "--listen"), workers=MAX_WORKERS)
    # sockaddr_un: 108 bytes with the final zero.
    assert max(len(str(address.path)) for address in settings.listen_addresses()) <= 107


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("cluster.local", "cluster.local"),
        ("Cluster.LOCAL.", "cluster.local"),
        ("local", "local"),
        ("10.in-addr.arpa", "10.in-addr.arpa"),
        ("_internal.example", "_internal.example"),
        (LABEL_63, LABEL_63),
        (NAME_253, NAME_253),
    ],
)
def test_a_zone_is_kept_in_lower_case_without_a_dot(text: str, zone: str) -> None:
    assert parse_zone(text, "--zone") == zone


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", ".a", "-a.b", "a-.b", "a b", "a/b", "é.local", "a.b\n", "a" * 64, NAME_253 + "b"],
)
def test_a_zone_that_no_name_can_hold_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--zone: "):
        parse_zone(text, "--zone")


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--manifests", {"manifests": ("FOLDER",), "kubeconfig": "FILE"}),
        ("--manifests", {"manifests": ("FOLDER",), "context": "c"}),
        ("--manifests", {"manifests": ("FOLDER", "FOLDER/missing.yaml")}),
        ("--zone", {"zones": ()}),
        ("--zone", {"zones": ("a.org", "b.org", "a.org")}),
        ("--workers", {"workers": 0}),
        ("--workers", {"workers": -1}),
        ("--workers", {"workers": MAX_WORKERS + 1}),
        ("--listen", {"listen": Address(host="127.0.0.1", port=65535), "workers": 2}),
        ("--listen", {"listen": Address(host="127.0.0.1", port=0), "workers": 1}),
        ("--tls-cert", {"tls_cert": "FOLDER/missing", "tls_key": "FILE"}),
        ("--tls-key", {"tls_cert": "FILE", "tls_key": "FOLDER"}),
        ("--tls-client-ca", {"tls_cert": "FILE", "tls_key": "FILE", "tls_client_ca": "FOLDER/missing"}),
        ("--tls-key", {"tls_cert": "FILE"}),
        ("--tls-cert", {"tls_key": "FILE"}),
        ("--tls-client-ca", {"tls_client_ca": "FILE"}),
        ("--ttl", {"ttl": -1}),
        ("--ttl", {"ttl": 2**31}),
        ("--negative-ttl", {"negative_ttl": -1}),
        ("--negative-ttl", {"negative_ttl": 2**31}),
        ("--namespace", {"namespaces": ("default", "Not-A-Namespace")}),
        ("--namespace", {"namespaces": ("a.b",)}),
        ("--namespace", {"namespaces": ("",)}),
        ("--namespace", {"namespaces": ("a" * 64,)}),
        ("--admin", {"admin": Address(path="/run/admin.sock")}),
        ("--dns", {"dns": Address(path="/run/dns.sock")}),
        ("--state-dir", {"state_dir": ""}),
        ("--max-staleness", {"max_staleness": -1.0}),
        ("--audit-interval", {"audit_interval": float("inf")}),
        ("--history", {"history": 4096}),
        ("--history", {"history": 1 << 40}),
        ("--history", {"history": -1}),
        ("--upstream", {"upstreams": (Address(path="/run/dns.sock"),)}),
        ("--multicluster-zone", {"multicluster_zones": ("a.org", "a.org")}),
        ("--zone", {"zones": tuple(f"z{number}" for number in range(251))}),
        ("--labels", {"labels": "a b"}),
        ("--labels", {"labels": "a=b\n,"}),
        ("--labels", {"labels": "a=" + "b" * 64}),
        ("--namespace-labels", {"namespace_labels": "team in (db"}),
        ("--namespace-labels", {"namespace_labels": "Team/x"}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_flag(flag: str, changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config").touch()

    def placed(value: object) -> Any:
        if isinstance(value, str):
            return value.replace("FOLDER", str(tmp_path)).replace("FILE", str(tmp_path / "config"))
        return tuple(map(placed, value)) if isinstance(value, tuple) else value

    with pytest.raises(SettingsError, match=f"^{flag}: ") as refused:
        Settings(**{name: placed(value) for name, value in changes.items()})
    assert refused.value.flag == flag
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 1},
        {"workers": MAX_WORKERS},
        {"ttl": 0, "negative_ttl": 0},
        {"ttl": 2**31 - 1},
        {"admin": None, "dns": None},
        {"namespaces": ("a", "0", "kube-system", "a" * 63)},
        {"zones": ("a.org", "b.a.org")},
        {"labels": "a in (b, c),!d,e>5", "namespace_labels": "example.org/team!=db"},
        {"namespaces": ("a",), "labels": "a=b"},
    ],
)
def test_values_at_the_edge_are_taken(changes: dict[str, Any]) -> None:
    Settings(**changes)


#: The settings that shape the bytes of the records.
SHAPING = {
    "zones", "reverse_zones", "multicluster_zones", "ttl", "negative_ttl", "pods", "endpoint_pod_names", "zonal",
    "ignore_empty_service", "namespaces", "policy",
}  # fmt: skip


def test_the_fingerprint_changes_exactly_with_what_shapes_records(tmp_path: Path) -> None:
    for name in ("config", "tls"):
        (tmp_path / name).touch()
    config, tls = str(tmp_path / "config"), str(tmp_path / "tls")
    other: dict[str, Any] = {
        "kubeconfig": config,
        "context": "elsewhere",
        "manifests": (str(tmp_path),),
        "zones": ("cluster.local", "example.org"),
        "reverse_zones": ("10.in-addr.arpa",),
        "multicluster_zones": ("clusterset.local",),
        "listen": Address(host="127.0.0.1", port=5300),
        "workers": 3,
        "listen_zones": (),
        "client_option": 0,
        "zone_cidrs": (ZoneCidr("a", "10.0.0.0/8"),),
        "client_nodes": False,
        "transport": "grpcio",
        "tls_cert": config,
        "tls_key": config,
        "tls_client_ca": config,
        "state_dir": str(tmp_path),
        "admin": None,
        "admin_details": "all",
        "dns": Address(host="127.0.0.1", port=53),
        "ttl": 6,
        "negative_ttl": 6,
        "pods": "verified",
        "endpoint_pod_names": True,
        "zonal": True,
        "ignore_empty_service": True,
        "namespaces": ("default",),
        "list_mode": "stream",
        "max_staleness": 60.0,
        "extended_errors": True,
        "audit_interval": 0.0,
        "history": 0,
        "second_opinion": "off",
        "policy": "json:loads",
        "namespace_labels": "team=db",
        "labels": "app=db",
        "upstreams": (Address(host="192.0.2.1", port=53),),
        "peer_listen": Address(host="127.0.0.1", port=9354),
        "seeds": (Address(host="127.0.0.1", port=9355),),
        "peer_cert": config,
        "peer_key": config,
        "peer_ca": config,
        "peer_token": config,
        "log_level": "debug",
        "log_format": "json",
    }
    assert set(other) == {item.name for item in fields(Settings)}, "a new setting: does it shape records?"
    # One needs the other.
    standard = Settings(tls_cert=tls, tls_key=tls, peer_cert=tls, peer_key=tls)
    assert standard.records_fingerprint() == Settings().records_fingerprint()
    changed = {
        name
        for name, value in other.items()
        if replace(standard, **{name: value}).records_fingerprint() != standard.records_fingerprint()
    }
    assert changed == SHAPING


def test_a_bad_selector_is_quoted_with_what_is_wrong_in_it() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings(labels="app=db,tier in prod")
    assert str(refused.value) == "--labels: 'app=db,tier in prod': 'prod' stands where '(' is expected"


def test_the_fingerprint_tells_ttl_from_negative_ttl() -> None:
    assert Settings(ttl=7).records_fingerprint() != Settings(negative_ttl=7).records_fingerprint()


@pytest.mark.parametrize(
    ("text", "zones"),
    [
        ("in-addr.arpa", ("in-addr.arpa",)),
        ("10.in-addr.arpa.", ("10.in-addr.arpa",)),
        ("10.0.0.0/8", ("10.in-addr.arpa",)),
        ("10.96.0.0/14", ("96.10.in-addr.arpa", "97.10.in-addr.arpa", "98.10.in-addr.arpa", "99.10.in-addr.arpa")),
        ("10.1.2.3/32", ("3.2.1.10.in-addr.arpa",)),
        ("0.0.0.0/0", ("in-addr.arpa",)),
        ("fd00::/8", ("d.f.ip6.arpa",)),
        ("fd00::/7", ("c.f.ip6.arpa", "d.f.ip6.arpa")),
        ("fd00::/64", ("0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",)),
    ],
)
def test_a_cidr_is_the_reverse_zones_that_cover_it(text: str, zones: tuple[str, ...]) -> None:
    assert parse_reverse_zone(text, "--reverse-zone") == zones


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.0/", "x/8", "cluster.local", "xin-addr.arpa", "10.0.0.0", ""])
def test_what_is_no_reverse_zone_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--reverse-zone"):
        parse_reverse_zone(text, "--reverse-zone")


def test_zones_of_one_kind_only() -> None:
    with pytest.raises(SettingsError, match="--multicluster-zone"):
        Settings(zones=("a.b",), multicluster_zones=("a.b",))
    with pytest.raises(SettingsError, match="--zone"):
        Settings(zones=("10.in-addr.arpa",))
    with pytest.raises(SettingsError, match="--namespace-labels"):
        Settings(namespaces=("a",), namespace_labels="b=c")
