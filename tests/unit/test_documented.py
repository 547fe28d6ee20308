"""Every flag, metric, annotation and exit code is documented, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import msgspec
import pytest
from headwater.admin.collector import HeadwaterCollector
from headwater.answer.counts import Reason
from headwater.cluster.objects import ANNOTATIONS, POD_WEIGHT_ANNOTATION
from headwater.commands import kubectl
from headwater.commands.cli import COMMANDS
from headwater.commands.options import default_text
from headwater.compare.judgement import EXPLAINED, OPEN, Kind
from headwater.compare.metrics import Metrics
from headwater.compare.report import Class, Example, Lateness, Report
from headwater.explain.explanation import Cause, Explanation
from headwater.process import control
from headwater.settings import file
from headwater.settings.options import OPTIONS, TOPICS, Option
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

ROOT = Path(__file__).resolve().parents[2]
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
BACKEND = ROOT / "backend" / "headwater"


def section(name: str, title: str) -> str:
    """Return the text below a heading of a page, up to the next heading."""
    text = (ROOT / "docs" / name).read_text()
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/{name} has no section {title!r}"
    return found[1]


def rows(name: str, title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its header row."""
    lines = [line for line in section(name, title).splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"docs/{name} has no table below {title!r}"
    cells = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


# Flags: docs/configuration.md has the table of options


def option_row(option: Option) -> list[str]:
    kind = {"text": "string", "number": "number", "switch": "true, false"}[option.kind]
    if option.choices:
        kind = ", ".join(f'"{choice}"' for choice in option.choices)
    flag = f"{option.flag} {option.metavar}".strip()
    flag = f"`--[no-]{option.key}`" if option.kind == "switch" else f"`{flag}`"
    default = default_text(option.default, option.unset)
    return [flag, "array of strings" if option.many else kind, default, option.help]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_options_of_a_topic_are_documented_as_they_are(topic: object) -> None:
    (found,) = [known for known in TOPICS if known is topic]
    expected = [option_row(option) for option in OPTIONS if option.topic is found]
    shown = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in expected)
    assert rows("configuration.md", f"{found.title}: `[{found.name}]`") == expected, f"it should say:\n{shown}"


def commands() -> Iterator[tuple[str, click.Command]]:
    for names in COMMANDS.values():
        for name in names:
            yield name, import_module(f"headwater.commands.{name}").command


def own_flags(command: click.Command) -> set[str]:
    shared = {option.flag for option in OPTIONS} | {"--config", "--help-all"}
    return {item.opts[0] for item in command.params if isinstance(item, click.Option)} - shared


#: Commands with flags that `serve` does not have.
OWN = ["corefile", "query", "demo", "explain", "history", "names", "compare", "check"]


@pytest.mark.parametrize("name", OWN)
def test_a_commands_own_flags_are_documented(name: str) -> None:
    command = dict(commands())[name]
    documented = [row[0] for row in rows("configuration.md", f"Flags of `{name}`")]
    found = {item.opts[0]: item for item in command.params if isinstance(item, click.Option)}
    expected = {
        flag: f"`{flag}`" if found[flag].is_flag else f"`{flag} {found[flag].metavar}`" for flag in own_flags(command)
    }
    assert sorted(documented) == sorted(expected.values())


def test_no_other_command_has_flags_of_its_own() -> None:
    assert {name for name, command in commands() if own_flags(command)} == {
        "corefile",
        "query",
        "demo",
        "explain",
        "history",
        "names",
        "compare",
        "check",
    }


@pytest.mark.parametrize("name", ["status", "explain", "history"])
def test_the_plug_ins_flags_are_documented(name: str) -> None:
    text = (ROOT / "docs" / "kubectl.md").read_text()
    found = [
        opt for item in kubectl.command.commands[name].params if isinstance(item, click.Option) for opt in item.opts
    ]
    assert [flag for flag in found if f"`{flag}" not in text] == []
    assert f"| `{name}" in text


#: Flags of other programs in the documentation, and click's own.
FOREIGN = {"--quick", "--help", "--version"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_flag_that_is_spoken_of_exists(page: Path) -> None:
    every = [command for _, command in commands()] + list(kubectl.command.commands.values())
    known = {opt for command in every for item in command.params for opt in (*item.opts, *item.secondary_opts)}
    # Flags in backticks, and in commands that begin with ours.
    text = page.read_text()
    spoken = re.findall(r"`(--[a-z][a-z-]+)", text)
    for line in re.findall(r"^\s+(?:\$ )?headwater (.*)$", text, re.MULTILINE):
        spoken += re.findall(r"(?<!\S)(--[a-z][a-z-]+)", line)
    assert set(spoken) <= known | FOREIGN


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_variable_that_is_spoken_of_exists(page: Path) -> None:
    known = {option.variable for option in OPTIONS} | {file.VARIABLE, "HEADWATER_SERVER", "HEADWATER_COREDNS"}
    known |= {"HEADWATER_CACHE", "HEADWATER_X"}  # one of the build, and an example
    assert set(re.findall(r"\bHEADWATER_[A-Z_]+", page.read_text())) <= known


# Metrics


def families() -> dict[str, tuple[str, ...]]:
    """Return the names in Prometheus and the labels of all metrics of a scrape."""
    registry = CollectorRegistry()
    collector = HeadwaterCollector(["cluster.local"], list)
    registry.register(collector)
    scraped = set(re.findall(r"^# TYPE (\S+) ", generate_latest(registry).decode(), re.MULTILINE))
    found = {}
    for family in collector.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = tuple(getattr(family, "_labelnames", ()))
    assert set(found) == scraped
    return found


def test_every_metric_is_documented_with_its_labels() -> None:
    documented: dict[str, tuple[str, ...]] = {}
    for row in rows("operations.md", "Metrics"):
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([a-z_,]*)\})?`", row[0]):
            assert name not in documented, name
            documented[name] = tuple(labels.split(",")) if labels else ()
    assert documented == families()


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_metric_that_is_spoken_of_exists(page: Path) -> None:
    known = {
        suffixed
        for name in {**families(), **compared()}
        for suffixed in (name, f"{name}_bucket", f"{name}_sum", f"{name}_count")
    }
    assert set(re.findall(r"\bheadwater_[a-z_]+", page.read_text())) <= known


def compared() -> dict[str, tuple[str, ...]]:
    """The same of a comparison, which has a registry and an address of its own."""
    found = {}
    for family in Metrics().registry.collect():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = tuple(sorted(labels))
    return found


def test_every_metric_of_a_comparison_is_documented_with_its_labels() -> None:
    documented: dict[str, tuple[str, ...]] = {}
    for row in rows("moving.md", "Metrics of a comparison"):
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([a-z_,]*)\})?`", row[0]):
            documented[name] = tuple(labels.split(",")) if labels else ()
    assert documented == compared()


def test_every_class_of_a_difference_is_documented_as_it_counts() -> None:
    documented = {row[0].strip("`"): row[2] == "yes" for row in rows("moving.md", "What a difference is")[: len(Kind)]}
    assert documented == {str(kind): kind in EXPLAINED for kind in Kind}
    assert set(Kind) - EXPLAINED == OPEN


def test_every_field_of_a_comparison_is_documented() -> None:
    words = set(re.findall(r"`([a-z_0-9]+)(?:\[\])?`", section("moving.md", "JSON")))
    for kind in (Report, Class, Example, Lateness):
        fields = {item.encode_name for item in msgspec.structs.fields(kind)}
        assert fields <= words, fields - words


def test_every_reason_of_a_reply_is_documented() -> None:
    (text,) = [row[1] for row in rows("operations.md", "Metrics") if row[0].startswith("`headwater_queries_total")]
    listed = re.search(r"`reason` is one of ([a-z_, ]+)", text)
    assert listed
    assert sorted(listed[1].split(", ")) == sorted(reason.name.lower() for reason in Reason)


# Annotations


def test_every_annotation_is_documented() -> None:
    table = {row[0].strip("`") for row in rows("answers.md", "Beyond the specification")}
    ours = {name for name in ANNOTATIONS if name.startswith("headwater.dev/")}
    assert table == ours
    page = (ROOT / "docs" / "answers.md").read_text()
    for name in set(ANNOTATIONS) - ours:
        assert f"`{name}" in page


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_annotation_that_is_spoken_of_is_read(page: Path) -> None:
    spoken = re.findall(r"\bheadwater\.dev/[a-z][a-z-]*", page.read_text())
    spoken += re.findall(r"\bservice\.alpha\.kubernetes\.io/[a-z][a-z-]*", page.read_text())
    assert set(spoken) <= {*ANNOTATIONS, POD_WEIGHT_ANNOTATION}


# Exit codes


def exits(path: Path) -> Iterator[int]:
    """Yield the exit codes of a module: arguments of exit, as numbers or constants of `control`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "os._exit"):
            (argument,) = node.args
            text = ast.unparse(argument)
            if isinstance(argument, ast.Constant):
                assert isinstance(argument.value, int), text
                yield argument.value
            elif text != "main()":
                yield int(getattr(control, text.removeprefix("control.")))


def constants(path: Path) -> Iterator[int]:
    """Yield the integers that a module assigns to names in capitals."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant) and type(node.value.value) is int:
            yield node.value.value


def documented_codes(of: str) -> set[int]:
    """Return the codes of the rows that begin with this word, and of those
    below with an empty first cell.
    """
    found, owner = set(), ""
    for who, code, _ in rows("operations.md", "Exit codes"):
        owner = who or owner
        if owner.startswith(of) and code.isdigit():
            found.add(int(code))
    return found


def test_exit_codes_of_the_command_are_documented() -> None:
    assert documented_codes("`headwater`") == {0, *constants(BACKEND / "commands" / "cli.py")}


def test_exit_codes_of_processes_are_documented() -> None:
    used = {code for path in sorted(BACKEND.rglob("*.py")) for code in exits(path)}
    assert len(used) >= 4
    # 0 is the code of a process whose function returns; 255 is multiprocessing's code for an
    # unknown one.
    assert documented_codes("a process") - {255} == used | {0}


# Causes


def test_every_cause_and_field_of_an_explanation_is_documented() -> None:
    found = [cell.strip("`") for cell in (row[0] for row in rows("explain.md", "JSON"))]
    fields = {item.encode_name for item in msgspec.structs.fields(Explanation)}
    assert fields <= {word for cell in found for word in re.findall(r"[a-z_]+", cell)}
    text = (ROOT / "docs" / "explain.md").read_text()
    documented = re.findall(r"^\| `([a-z-]+)` \|", text.partition("| cause |")[2], re.MULTILINE)
    assert sorted(documented) == sorted(cause.value for cause in Cause)
