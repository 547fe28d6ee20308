"""For every question of the comparison with CoreDNS, the explanation and the reply agree.

The clusters are those of tests/answers, written into a store without a control plane.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import KINDS, Decoded, Object, OddObject, convert
from headwater.cluster.source import selectors_of
from headwater.commands.options import settings_of
from headwater.explain.explain import explain
from headwater.explain.explanation import Cause, Outcome
from headwater.settings.settings import Settings
from headwater.store.environment import Reader

from tests.answers.generate import generate
from tests.answers.names import MATRIX, names_of, relative_to
from tests.answers.servers import CONFIGURATIONS
from tests.harness.small import Small, listed

SEEDS = 1
BY_NAME = {configuration.name: configuration for configuration in CONFIGURATIONS}


def settings_for(name: str, seed: int, anything: Path) -> Settings:
    """Return the settings of a configuration for objects from the generator."""
    words = BY_NAME[name].flags(anything, "127.0.0.1:53", [seed])
    assert words[0] == "--kubeconfig"
    return settings_of(["--manifests", str(anything), *words[2:]])


def objects_of(seed: int, chosen: Settings) -> list[Object]:
    """Return the objects that the API server would send with these settings."""
    selectors = selectors_of(chosen)
    found: dict[tuple[str, tuple[str, str]], Object] = {}
    for item in generate(seed).objects.values():
        resource = KINDS[item["apiVersion"], item["kind"]]
        if not selectors[resource].matches(item["metadata"].get("labels") or {}):
            continue
        try:
            decoded: Decoded = convert(resource, item)
        except OddObject:
            continue
        if not decoded.absent:
            found[resource, decoded.object.key] = decoded.object
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("which", list(BY_NAME))
def test_reason_and_reply_agree(tmp_path: Path, seed: int, which: str) -> None:
    chosen = settings_for(which, seed, tmp_path)
    small = Small(tmp_path / "state", chosen)
    small.commit(*listed(small.resources, objects_of(seed, chosen)))
    names = names_of(generate(seed))
    asked = [name for zone in chosen.zones for name in relative_to(zone, [*names.forward, *names.aliases])]
    asked += [name for zone in chosen.multicluster_zones for name in relative_to(zone, names.imported)]
    asked += list(names.reverse) if chosen.reverse_zones else []
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    resolver = Resolver(reader, chosen)
    snapshot = reader.begin()
    assert snapshot is not None
    seen: Counter[tuple[Outcome, Cause]] = Counter()
    wrong = []
    try:
        for index, name in enumerate(asked):
            for qtype in {"A", MATRIX[index % len(MATRIX)], ("AAAA", "SRV", "PTR")[index % 3]}:
                found = explain(name, qtype, snapshot, chosen, lambda query: resolver.answer(query, snapshot))
                seen[found.outcome, found.cause] += 1
                if found.contradiction or not found.verdict:
                    wrong.append(
                        f"{name} {qtype}: {found.outcome} {found.cause}: {found.verdict} {found.contradiction}"
                    )
    finally:
        snapshot.close()
        reader.close()
    assert not wrong, f"{len(wrong)} of {seen.total()}\n" + "\n".join(wrong[:20])
    assert {outcome for outcome, _ in seen} >= {Outcome.ANSWER, Outcome.NODATA, Outcome.NXDOMAIN}
    assert len(seen) > 10, seen
