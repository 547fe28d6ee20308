"""Whatever stands in annotations: a Service's bare names answer, and others are as they were."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec
import pytest
from headwater.cluster.objects import ANNOTATIONS, Object, Service
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import NOT_READY, Small, annotated, at, cluster_ip, headless, settings, slice_of, upsert

BAD: Final = "bad.tenant.svc.cluster.local"
GOOD: Final = "good.default.svc.cluster.local"
SHAPE: Final = settings(
    zonal=True, reverse_zones=("in-addr.arpa",), endpoint_pod_names=True,
    listen_zones=(ZoneAddress("za", Address(path="/run/za.sock")),),
)  # fmt: skip
MEMBERS: Final = (
    *(at(f"10.0.0.{i}", hostname=f"h-{i}", pod=f"p-{i}", zone=f"z{'aab'[i]}") for i in range(3)),
    at("10.0.0.9", hostname="late", conditions=NOT_READY),
)
OTHERS: Final[tuple[Object, ...]] = (
    headless("good"), slice_of("good", at("10.0.1.1", hostname="h-0"), at("10.0.1.2", hostname="primary")),
)  # fmt: skip

#: Words that mean something, joined in ways that mean nothing.
_WORD: Final = st.sampled_from(
    ["h-0", "p-1", "late", "*", "from-pods", "=", ",", "==", ",,", "-1", "1", "65535", "65536", "9" * 400, "1s", "3s",
     "999999ms", "inf", "nan", "1e9s", "prefer", "pin", "off", "true", "all", "_tcp", "_http", "tcp", "http", "_zone",
     "pin", "10-0-0-1", "h-0.h-1", "\0", "\u0660", "é", "\u212a", "\u202e", "\ud7ff", "\U0010ffff", " ", "\n", "%s",
     "{}", "../", "a" * 63, "a" * 64, "late=late", "h-0=h-1", "h-1=h-0"]
)  # fmt: skip
_VALUE: Final = st.lists(_WORD, max_size=12).map("".join) | st.text(max_size=40)
_ANNOTATIONS: Final = st.lists(
    st.tuples(st.sampled_from(ANNOTATIONS), _VALUE), max_size=6, unique_by=lambda pair: pair[0]
).map(tuple)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Small:
    found = Small(tmp_path_factory.mktemp("hostile"), SHAPE)
    return found.fill(*OTHERS, slice_of("bad", *MEMBERS, namespace="tenant"), namespaces=("tenant", "default"))


@given(annotations=_ANNOTATIONS, clustered=st.booleans())
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_leave_the_names_and_meet_no_bug(
    world: Small, annotations: tuple[tuple[str, str], ...], clustered: bool
) -> None:
    plain = cluster_ip("bad", "172.16.0.9", namespace="tenant") if clustered else headless("bad", "tenant")
    world.reports.clear()
    world.commit(upsert(msgspec.structs.replace(plain, annotations=annotations), str(time.monotonic_ns())))
    assert not [report for report in world.reports if report[0] not in ("annotation", "limit", "name")]
    expected = {"172.16.0.9"} if clustered else {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    if not clustered and any(name.endswith("/max-answers") for name, _ in annotations):
        assert world.answers(BAD)
    else:
        assert world.answers(BAD) >= expected
    for i in range(3):
        assert world.answers(f"h-{i}.{BAD}") >= {f"10.0.0.{i}"}
    assert world.answers(GOOD) == {"10.0.1.1", "10.0.1.2"}
    assert world.answers(f"primary.{GOOD}") == {"10.0.1.2"}


def _largest() -> dict[str, Service]:
    many = ",".join(f"h-{i}={i - 5}" for i in range(10_000))
    return {
        "ten thousand weights": annotated(headless("bad", "tenant"), weights=many, priorities=many),
        "ten thousand aliases": annotated(
            headless("bad", "tenant"), alias=",".join(f"a{i}=h-0" for i in range(10_000))
        ),
        "one alias for all": annotated(headless("bad", "tenant"), alias=",".join(f"a=h-{i}" for i in range(10_000))),
        "nothing but commas": annotated(headless("bad", "tenant"), weights="," * 260_000, alias="," * 260_000),
        "one long word": annotated(headless("bad", "tenant"), patience="1" * 260_000, zone="p" * 260_000),
    }


@pytest.mark.parametrize("what", _largest())
def test_the_largest_annotations_that_the_api_takes_cost_little(tmp_path: Path, what: str) -> None:
    """256 KiB of annotations at a thousand endpoints: CPU seconds beside those without any."""
    thousand = slice_of("bad", *(at(f"10.1.{i >> 8}.{i & 255}", hostname=f"h-{i}") for i in range(1_000)),
                        namespace="tenant")  # fmt: skip
    world = Small(tmp_path, SHAPE)
    world.fill(headless("bad", "tenant"), thousand, namespaces=("tenant",))

    def cost(service: Service, version: str) -> float:
        began = time.process_time()
        world.commit(upsert(service, version))
        return time.process_time() - began

    cost(annotated(headless("bad", "tenant"), ttl="9"), "10")
    plain = cost(annotated(headless("bad", "tenant"), ttl="8"), "11")
    assert cost(_largest()[what], "12") < 4 * plain + 0.1
    assert all(len(detail) < 300 for *_, detail in world.reports)
    assert world.answers(f"h-7.{BAD}") == {"10.1.0.7"}
