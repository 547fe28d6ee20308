"""Values, their schema and their documentation agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from headwater import __version__

from tests.harness.helm import CHART
from tools import chart

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def test_readme_has_the_table_of_values() -> None:
    text = chart.README.read_text()
    assert text == chart.readme(text, (CHART / "values.yaml").read_text()), "run tools/chart.py"


def test_a_value_without_a_comment_is_told() -> None:
    with pytest.raises(SystemExit, match=r"a\.c has no comment"):
        list(chart.rows("a:\n  # -- One.\n  b: 1\n  c: 2\n"))


def test_a_comment_of_several_lines_is_one_row_and_what_it_holds_is_its_default() -> None:
    found = list(chart.rows("# -- One,\n# two.\na:\n  b: {c: 1}\n# Not a row.\nd:\n  # -- Three.\n  e: []\n"))
    assert [(row.path, row.default, row.comment) for row in found] == [
        ("a", {"b": {"c": 1}}, "One, two."),
        ("d.e", [], "Three."),
    ]


def closed(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema that names its keys."""
    if "properties" in schema:
        yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from closed(child, f"{path}.{key}")
    if isinstance(schema.get("items"), dict):
        yield from closed(schema["items"], f"{path}[]")


@pytest.mark.parametrize(
    ("path", "schema"),
    [*closed(SCHEMA, "values"), *(one for name, part in SCHEMA["definitions"].items() for one in closed(part, name))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_object_takes_a_key_that_it_does_not_know(path: str, schema: dict[str, Any]) -> None:
    assert schema["additionalProperties"] is False, path


def keys(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where the keys of schema and values differ, below objects of the schema itself."""
    known, there = schema["properties"].keys(), values.keys()
    yield from (f"{path}{key}" for key in known ^ there)
    for key in known & there:
        child = schema["properties"][key]
        if isinstance(values[key], dict) and "properties" in child:
            yield from keys(child, values[key], f"{path}{key}.")


def test_schema_and_values_have_the_same_keys() -> None:
    optional = {"global", "enabled", "updateStrategy.type", *(f"affinity.{kind}" for kind in (
        "nodeAffinity", "podAffinity", "podAntiAffinity"))}  # fmt: skip
    assert set(keys(SCHEMA, VALUES)) == optional


def test_every_pattern_is_whole() -> None:
    """A pattern that is not anchored lets everything pass that has a good part."""
    patterns = re.findall(r'"pattern": (".*")', (CHART / "values.schema.json").read_text())
    assert len(patterns) > 20
    for text in patterns:
        pattern = json.loads(text)
        assert pattern.startswith("^"), pattern
        assert pattern.endswith("$"), pattern


def test_the_chart_is_of_this_version() -> None:
    found = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert found["appVersion"] == __version__
    changes = yaml.safe_load(found["annotations"]["artifacthub.io/changes"])
    assert changes
    for change in changes:
        assert change["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security")
        assert change["description"]
