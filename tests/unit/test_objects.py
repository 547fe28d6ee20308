"""API objects in their reduced form: the fields that are read, defaults, and refused objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from headwater.cluster.objects import (
    NO_PORT,
    Condition,
    Decoded,
    Endpoint,
    EndpointSlice,
    Namespace,
    Object,
    OddObject,
    Pod,
    Port,
    Resource,
    Service,
    convert,
    decode,
    pack,
    unpack,
)
from hypothesis import given, settings
from hypothesis import strategies as st

READY_SERVING = Condition.READY | Condition.SERVING


def meta(name: str = "web", **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "prod", "resourceVersion": "4711", **more}


def both(resource: Resource, api: dict[str, Any]) -> Decoded:
    """Decode an object from JSON and from YAML, which must give the same."""
    decoded = decode(resource, json.dumps(api).encode())
    assert convert(resource, api) == decoded
    return decoded


def service(spec: dict[str, Any] | None) -> Service:
    decoded = both("services", {"metadata": meta(), "spec": spec})
    assert isinstance(decoded.object, Service)
    return decoded.object


def slice_of(**fields: Any) -> EndpointSlice:
    decoded = both("endpointslices", {"metadata": meta("web-abc12"), **fields})
    assert isinstance(decoded.object, EndpointSlice)
    return decoded.object


def reduced_service(**changes: Any) -> Service:
    standard: dict[str, Any] = {
        "namespace": "prod", "name": "web", "type": "ClusterIP", "headless": False, "cluster_ips": (),
        "external_name": "", "ports": (), "selectorless": True,
    }  # fmt: skip
    return Service(**{**standard, **changes})


#: A Service as an API server of 1.36 sends it, with all fields that DNS does not need.
SERVICE = """{"kind":"Service","apiVersion":"v1","metadata":{"name":"headless-svc","namespace":"default",
"uid":"0b5b4e0e-52b3-4a0c-9be5-2d6d3c1ea2b0","resourceVersion":"331","creationTimestamp":"2026-11-01T10:00:00Z",
"labels":{"app":"web"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}\\n"},
"managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1",
"fieldsV1":{"f:spec":{"f:clusterIP":{},"f:ports":{".":{},"k:{\\"port\\":80,\\"protocol\\":\\"TCP\\"}":{}}}}}]},
"spec":{"ports":[{"protocol":"TCP","port":80,"targetPort":"http"}],"selector":{"app":"web"},"clusterIP":"None",
"clusterIPs":["None"],"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],
"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"},"status":{"loadBalancer":{}}}"""

SLICE = """{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"headless-svc-x7k2p",
"generateName":"headless-svc-","namespace":"default","resourceVersion":"402","generation":3,
"labels":{"app":"web","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io",
"kubernetes.io/service-name":"headless-svc","service.kubernetes.io/headless":""},
"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2026-11-01T10:00:07Z"},
"ownerReferences":[{"apiVersion":"v1","kind":"Service","name":"headless-svc","uid":"0b5b","controller":true}]},
"addressType":"IPv4","endpoints":[{"addresses":["10.44.0.7"],"conditions":{"ready":true,"serving":true,
"terminating":false},"hostname":"web-stateful-0","targetRef":{"kind":"Pod","namespace":"default",
"name":"web-stateful-0","uid":"5d1e"},"nodeName":"node-a","zone":"zone-a","hints":{"forZones":[{"name":"zone-a"}]}}],
"ports":[{"name":"","protocol":"TCP","port":80}]}"""

POD = """{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-stateful-0","namespace":"default",
"resourceVersion":"399","labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"nginx"}],
"hostname":"web-stateful-0","subdomain":"headless-svc"},"status":{"phase":"Running","conditions":[{"type":"Ready",
"status":"True"}],"hostIP":"127.0.0.1","podIP":"10.44.0.7","podIPs":[{"ip":"10.44.0.7"},{"ip":"fd00::7"}],
"startTime":"2026-11-01T10:00:01Z","qosClass":"BestEffort"}}"""

NAMESPACE = """{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"default","resourceVersion":"37","labels":
{"kubernetes.io/metadata.name":"default"}},"spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}"""


@pytest.mark.parametrize(
    ("resource", "text", "expected"),
    [
        ("namespaces", NAMESPACE, Decoded(Namespace("default"), "37")),
        (
            "services",
            SERVICE,
            Decoded(
                Service("default", "headless-svc", "ClusterIP", True, (), "", (Port("", "TCP", 80),)),
                "331",
            ),
        ),
        (
            "endpointslices",
            SLICE,
            Decoded(
                EndpointSlice(
                    "default",
                    "headless-svc-x7k2p",
                    "headless-svc",
                    (Port("", "TCP", 80),),
                    (
                        Endpoint(
                            ("10.44.0.7",),
                            READY_SERVING,
                            "web-stateful-0",
                            "web-stateful-0",
                            "zone-a",
                            "node-a",
                            ("zone-a",),
                        ),
                    ),
                ),
                "402",
                "2026-11-01T10:00:07Z",
            ),
        ),
        ("pods", POD, Decoded(Pod("default", "web-stateful-0", ("10.44.0.7", "fd00::7")), "399")),
    ],
)
def test_an_object_as_the_api_server_sends_it(resource: Resource, text: str, expected: Decoded) -> None:
    assert decode(resource, text.encode()) == expected
    assert decode(resource, msgspec.Raw(text.encode())) == expected
    assert convert(resource, json.loads(text)) == expected


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (None, {}),
        ({}, {}),
        ({"type": None, "clusterIP": None, "clusterIPs": None, "externalName": None, "ports": None}, {}),
        ({"clusterIP": ""}, {}),
        ({"clusterIP": "10.0.0.1"}, {"cluster_ips": ("10.0.0.1",)}),
        ({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}, {"cluster_ips": ("10.0.0.1",)}),
        (
            {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilyPolicy": "RequireDualStack"},
            {"cluster_ips": ("10.0.0.1", "fd00::1")},
        ),
        ({"clusterIP": "10.0.0.1", "clusterIPs": []}, {"cluster_ips": ("10.0.0.1",)}),
        ({"clusterIP": "None"}, {"headless": True}),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, {"headless": True}),
        ({"type": "LoadBalancer", "clusterIP": "10.0.0.1"}, {"type": "LoadBalancer", "cluster_ips": ("10.0.0.1",)}),
        (
            {"type": "ExternalName", "externalName": "db.example.org"},
            {"type": "ExternalName", "external_name": "db.example.org"},
        ),
        ({"type": "ExternalName", "externalName": "x.org", "clusterIP": ""},
         {"type": "ExternalName", "external_name": "x.org"}),
    ],
)  # fmt: skip
def test_the_kinds_of_a_service(spec: dict[str, Any] | None, changes: dict[str, Any]) -> None:
    assert service(spec) == reduced_service(**changes)


PORTS: list[tuple[Any, tuple[Port, ...]]] = [
    (None, ()),
    ([], ()),
    ([{"port": 80}], (Port("", "TCP", 80),)),
    ([{"name": "dns", "protocol": "UDP", "port": 53}], (Port("dns", "UDP", 53),)),
    ([{"name": None, "protocol": None, "port": None}], (Port("", "TCP", NO_PORT),)),
    ([{"name": "any"}], (Port("any", "TCP", NO_PORT),)),
    ([{}], (Port("", "TCP", NO_PORT),)),
    ([{"name": "a", "port": 1}, {"name": "b", "port": 2, "targetPort": "x", "appProtocol": "h2c"}],
     (Port("a", "TCP", 1), Port("b", "TCP", 2))),
]  # fmt: skip


@pytest.mark.parametrize(("ports", "expected"), PORTS)
def test_ports_without_names_or_numbers(ports: Any, expected: tuple[Port, ...]) -> None:
    assert service({"ports": ports}).ports == expected
    assert slice_of(ports=ports).ports == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, READY_SERVING),
        ({}, READY_SERVING),
        ({"ready": None, "serving": None, "terminating": None}, READY_SERVING),
        ({"ready": True}, READY_SERVING),
        ({"ready": False}, 0),
        ({"ready": False, "serving": False}, 0),
        ({"ready": False, "serving": True, "terminating": True}, Condition.SERVING | Condition.TERMINATING),
        ({"ready": True, "serving": False}, Condition.READY),
        ({"serving": False}, Condition.READY),
        ({"ready": True, "terminating": True}, READY_SERVING | Condition.TERMINATING),
    ],
)
def test_an_endpoint_is_ready_unless_it_says_no(conditions: Any, expected: int) -> None:
    (endpoint,) = slice_of(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]).endpoints
    assert endpoint.conditions == expected


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({}, Endpoint((), READY_SERVING)),
        ({"addresses": None, "hostname": None, "targetRef": None, "zone": None}, Endpoint((), READY_SERVING)),
        ({"addresses": ["a", "b"]}, Endpoint(("a", "b"), READY_SERVING)),
        ({"targetRef": {}}, Endpoint((), READY_SERVING)),
        ({"targetRef": {"kind": "Pod", "name": "p"}}, Endpoint((), READY_SERVING, pod="p")),
        ({"hostname": "h", "zone": "z", "deprecatedTopology": {"a": "b"}},
         Endpoint((), READY_SERVING, hostname="h", zone="z")),
    ],
)  # fmt: skip
def test_an_endpoint_with_absent_fields(endpoint: dict[str, Any], expected: Endpoint) -> None:
    assert slice_of(endpoints=[endpoint]).endpoints == (expected,)


@pytest.mark.parametrize("endpoints", [None, []])
def test_a_slice_without_endpoints(endpoints: Any) -> None:
    assert slice_of(endpoints=endpoints) == EndpointSlice("prod", "web-abc12", "", (), ())


@pytest.mark.parametrize(
    ("metadata", "service_name", "trigger_time"),
    [
        ({}, "", ""),
        ({"labels": None, "annotations": None}, "", ""),
        ({"labels": {"app": "x"}, "annotations": {"app": "x"}}, "", ""),
        ({"labels": {"kubernetes.io/service-name": None}}, "", ""),
        ({"labels": {"kubernetes.io/service-name": "db"}}, "db", ""),
        ({"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}}, "",
         "2026-01-01T00:00:00Z"),
    ],
)  # fmt: skip
def test_a_slice_says_whose_it_is(metadata: dict[str, Any], service_name: str, trigger_time: str) -> None:
    decoded = both("endpointslices", {"metadata": meta("db-1", **metadata)})
    assert isinstance(decoded.object, EndpointSlice)
    assert (decoded.object.service, decoded.trigger_time) == (service_name, trigger_time)


@pytest.mark.parametrize(
    ("phase", "absent"),
    [
        (None, False),
        ("Pending", False),
        ("Running", False),
        ("Succeeded", True),
        ("Failed", True),
        ("Unknown", True),
    ],
)
def test_a_pod_that_is_done_is_absent(phase: str | None, absent: bool) -> None:
    decoded = both("pods", {"metadata": meta(), "status": {"phase": phase, "podIP": "10.0.0.1"}})
    assert decoded.absent is absent


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        (None, ()),
        ({}, ()),
        ({"podIP": None, "podIPs": None}, ()),
        ({"podIP": ""}, ()),
        ({"podIP": "10.0.0.1"}, ("10.0.0.1",)),
        ({"podIP": "10.0.0.1", "podIPs": []}, ("10.0.0.1",)),
        ({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, ("10.0.0.1", "fd00::1")),
        ({"podIPs": [{"ip": None}, {}, {"ip": "fd00::1"}]}, ("fd00::1",)),
    ],
)
def test_a_pod_has_all_its_addresses(status: Any, addresses: tuple[str, ...]) -> None:
    assert both("pods", {"metadata": meta(), "status": status}).object == Pod("prod", "web", addresses)


@pytest.mark.parametrize(
    ("resource", "key"),
    [("namespaces", ("", "x")), ("services", ("default", "x")), ("endpointslices", ("default", "x")),
     ("pods", ("default", "x"))],
)  # fmt: skip
@pytest.mark.parametrize("metadata", [{"name": "x"}, {"name": "x", "namespace": None, "resourceVersion": None}])
def test_an_object_with_a_name_only(resource: Resource, key: tuple[str, str], metadata: dict[str, Any]) -> None:
    decoded = both(resource, {"metadata": metadata})
    assert decoded.object.key == key
    assert decoded.resource_version == ""


RESOURCES: tuple[Resource, ...] = ("namespaces", "services", "endpointslices", "pods")


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"1", b'"x"', b"{}", b"{", b'{"metadata":null}', b'{"metadata":[]}', b'{"metadata":{}}',
        b'{"metadata":{"name":""}}', b'{"metadata":{"name":null}}', b'{"metadata":{"name":7}}',
        b'{"metadata":{"name":"\xff"}}', b'{"metadata":{"name":"\\ud800"}}', b'{"metadata":{"name":"x"}} trailing',
        b"\xff\xfe\x00", b"[" * 100_000,
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_what_is_no_object_is_odd(resource: Resource, text: bytes) -> None:
    with pytest.raises(OddObject, match=resource):
        decode(resource, text)


@pytest.mark.parametrize(
    ("resource", "fields"),
    [
        ("services", {"spec": []}),
        ("services", {"spec": {"clusterIPs": "10.0.0.1"}}),
        ("services", {"spec": {"clusterIPs": [None]}}),
        ("services", {"spec": {"ports": {"port": 80}}}),
        ("services", {"spec": {"ports": [{"port": "80"}]}}),
        ("services", {"spec": {"ports": [{"port": 80.5}]}}),
        ("services", {"spec": {"ports": [{"port": True}]}}),
        ("services", {"spec": {"ports": [{"port": 2**31}]}}),
        ("services", {"spec": {"ports": [{"port": 10**30}]}}),
        ("endpointslices", {"ports": [{"port": -(2**63) - 1}]}),
        ("endpointslices", {"endpoints": {}}),
        ("endpointslices", {"endpoints": [None]}),
        ("endpointslices", {"endpoints": [{"addresses": "10.0.0.1"}]}),
        ("endpointslices", {"endpoints": [{"conditions": {"ready": "true"}}]}),
        ("endpointslices", {"endpoints": [{"hostname": 7}]}),
        ("pods", {"status": "Running"}),
        ("pods", {"status": {"podIPs": ["10.0.0.1"]}}),
    ],
)
def test_a_field_of_another_type_is_odd(resource: Resource, fields: dict[str, Any]) -> None:
    api = {"metadata": meta(), **fields}
    with pytest.raises(OddObject):
        decode(resource, json.dumps(api).encode())
    with pytest.raises(OddObject):
        convert(resource, api)


TEXT = st.text(max_size=20)
PORT = st.builds(Port, TEXT, st.sampled_from(("TCP", "UDP", "SCTP")), st.integers(-(2**31), 2**31 - 1))
ENDPOINT = st.builds(Endpoint, st.lists(TEXT, max_size=3).map(tuple), st.integers(0, 7), TEXT, TEXT, TEXT)
REDUCED: dict[Resource, st.SearchStrategy[Object]] = {
    "namespaces": st.builds(Namespace, TEXT),
    "services": st.builds(
        Service, TEXT, TEXT, TEXT, st.booleans(), st.lists(TEXT, max_size=2).map(tuple), TEXT,
        st.lists(PORT, max_size=3).map(tuple),
    ),
    "endpointslices": st.builds(
        EndpointSlice, TEXT, TEXT, TEXT, st.lists(PORT, max_size=3).map(tuple),
        st.lists(ENDPOINT, max_size=3).map(tuple),
    ),
    "pods": st.builds(Pod, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple)),
}  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES)
def test_what_is_packed_is_unpacked_the_same(resource: Resource) -> None:
    @settings(max_examples=100, deadline=None)
    @given(REDUCED[resource])
    def holds(item: Object) -> None:
        packed = pack(item)
        for buffer in (packed, memoryview(packed), bytearray(packed)):
            again = unpack(resource, buffer)
            assert again == item
            assert type(again) is type(item)
        assert pack(unpack(resource, packed)) == packed, "the same object has the same bytes: changes are told by them"

    holds()


@pytest.mark.parametrize("resource", RESOURCES)
def test_other_bytes_do_not_unpack(resource: Resource) -> None:
    for data in (b"", b"\xc1", b"\x90", b"\x91\x01", b"\x80"):
        with pytest.raises(msgspec.MsgspecError):
            unpack(resource, data)


#: JSON with the API's own field names in wrong places.
FIELD = st.sampled_from(
    ("metadata", "name", "namespace", "labels", "kubernetes.io/service-name", "annotations", "resourceVersion", "spec",
     "clusterIP", "clusterIPs", "type", "ports", "port", "protocol", "endpoints", "addresses", "conditions", "ready",
     "hostname", "targetRef", "zone", "status", "phase", "podIP", "podIPs", "ip"),
)  # fmt: skip
ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("resource", RESOURCES)
def test_an_odd_object_is_refused_or_can_be_stored_never_anything_else(resource: Resource) -> None:
    def holds(parse: Callable[[], Decoded]) -> None:
        try:
            decoded = parse()
        except OddObject:
            return
        assert unpack(resource, pack(decoded.object)) == decoded.object

    @settings(max_examples=150, deadline=None)
    @given(ODD_JSON)
    def whatever(value: Any) -> None:
        api = {"metadata": {"name": "x"}, **value} if isinstance(value, dict) else value
        holds(lambda: decode(resource, json.dumps(api).encode()))
        holds(lambda: convert(resource, api))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=60))
    def noise(data: bytes) -> None:
        holds(lambda: decode(resource, data))

    whatever()
    noise()
