"""Manifests as people write them and as kubectl prints them; the
effect of bad ones; what is kept.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from headwater.cluster.files import BadManifest, Manifests, Objects, files_of, read, signature
from headwater.cluster.objects import EndpointSlice, Resource, Service
from headwater.settings.selectors import Selector, parse

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  clusterIP: {ip}
"""


def write(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def service(name: str, namespace: str = "default", ip: str = "10.0.0.1") -> str:
    return SERVICE.format(name=name, namespace=namespace, ip=ip)


def keys(file: Path) -> list[tuple[Resource, str]]:
    """Return (resource, "namespace/name") of a file's objects, in order."""
    return [(resource, "/".join(decoded.object.key)) for resource, decoded in read(file)]


def held(objects: Objects | None) -> dict[str, set[str]]:
    """Return the loaded names by resource, without empty resources."""
    assert objects is not None
    return {resource: {"/".join(key) for key in found} for resource, found in objects.items() if found}


# What is read

KUBECTL_LIST = """\
apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service","metadata":{"annotations":{},"name":"headless-svc"}}
    creationTimestamp: "2026-11-01T10:00:00Z"
    name: headless-svc
    namespace: default
    resourceVersion: "331"
    uid: 0b5b4e0e-52b3-4a0c-9be5-2d6d3c1ea2b0
  spec:
    clusterIP: None
    clusterIPs:
    - None
    ports:
    - port: 80
      protocol: TCP
      targetPort: http
    type: ClusterIP
  status:
    loadBalancer: {}
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses:
    - 10.44.0.7
    conditions:
      ready: true
    hostname: web-stateful-0
  kind: EndpointSlice
  metadata:
    annotations:
      endpoints.kubernetes.io/last-change-trigger-time: 2026-11-01T10:00:07Z
    labels:
      kubernetes.io/service-name: headless-svc
    name: headless-svc-x7k2p
    namespace: default
    resourceVersion: "402"
  ports:
  - name: ""
    port: 80
    protocol: TCP
kind: List
metadata:
  resourceVersion: ""
"""


#: A kind with our name in another group, and a kind that only looks like a list.
OTHER_KINDS = "apiVersion: example.org/v1\nkind: Service\nmetadata: [odd]\n---\nkind: AccessList\nspec: {}\n"


def test_a_dump_of_kubectl_get_o_yaml(tmp_path: Path) -> None:
    (_, first), (_, second) = read(write(tmp_path / "dump.yaml", KUBECTL_LIST))
    assert isinstance(first.object, Service)
    assert first.object.headless, "clusterIP: None is text in YAML, not null"
    assert first.resource_version == "331"
    assert isinstance(second.object, EndpointSlice)
    assert second.object.endpoints[0].addresses == ("10.44.0.7",)
    assert second.trigger_time == "2026-11-01T10:00:07Z", "a date stays the text that it is"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("one.yaml", service("a"), [("services", "default/a")]),
        ("one.yml", service("a"), [("services", "default/a")]),
        ("one.other", service("a"), [("services", "default/a")]),
        (
            "several documents.yaml",
            f"---\n{service('a')}---\n# nothing here\n---\n{service('b', 'prod')}...\n---\nnull\n",
            [("services", "default/a"), ("services", "prod/b")],
        ),
        ("empty.yaml", "", []),
        ("comments.yaml", "# nothing\n", []),
        ("empty.json", " \n", []),
        ("null.json", "null", []),
        (
            "one.json",
            '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}',
            [("namespaces", "/prod")],
        ),
        (
            "bom.json",
            '\ufeff{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}',
            [("namespaces", "/prod")],
        ),
        (
            "bom.yaml",
            "\ufeffapiVersion: v1\nkind: Namespace\nmetadata: {name: prod}\n",
            [("namespaces", "/prod")],
        ),
        (
            "list.json",
            '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}]}',
            [("pods", "default/p")],
        ),
        (
            "service list.json",
            '{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}',
            [("services", "default/a"), ("services", "default/b")],
        ),
        (
            "slice list.yaml",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems:\n- metadata: {name: s}\n",
            [("endpointslices", "default/s")],
        ),
        ("empty lists.yaml", "kind: List\nitems: []\n---\nkind: List\n---\nkind: List\nitems: null\n", []),
        (
            "other kinds.yaml",
            f"kind: Deployment\napiVersion: apps/v1\nspec: anything\n---\n{service('a')}---\n{OTHER_KINDS}",
            [("services", "default/a")],
        ),
        (
            "a list of lists of another kind.yaml",
            "kind: List\nitems:\n- {apiVersion: example.org/v1, kind: AccessList, items: [1, 2]}\n",
            [],
        ),
        (
            "aliases.yaml",
            "kind: List\nitems:\n- &a {apiVersion: v1, kind: Pod, metadata: {name: p}}\n- *a\n",
            [("pods", "default/p"), ("pods", "default/p")],
        ),
    ],
)
def test_what_a_file_says(name: str, text: str, expected: list[tuple[Resource, str]], tmp_path: Path) -> None:
    assert keys(write(tmp_path / name, text)) == expected


def test_the_bundled_examples_are_read() -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    found = held(Manifests([str(examples / "statefulset")]).load())
    assert "default/headless-svc" in found["services"]
    assert found["endpointslices"]


@pytest.mark.parametrize(
    "text",
    ["2026-11-01", "2026-11-01T10:00:07Z", "2026-11-01 10:00:07.5 +01:00", "2026-99-99"],
)
def test_dates_stay_text(text: str, tmp_path: Path) -> None:
    """PyYAML makes datetimes of them, and fails on impossible dates."""
    file = write(
        tmp_path / "slice.yaml",
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s\n  creationTimestamp: {text}\n"
        f"  annotations:\n    endpoints.kubernetes.io/last-change-trigger-time: {text}\n",
    )
    ((_, decoded),) = read(file)
    assert decoded.trigger_time == text


# Which files

FOLDER = ("b.yaml", "a.yml", "c.json", "below/d.yaml", "below/deeper/e.json")
NOT_READ = ("README.md", "f.yaml.bak", ".hidden.yaml", ".git/g.yaml", "below/.cache/h.yaml", "k.YAML.swp")


def test_a_folder_stands_for_its_manifests_but_hidden_ones(tmp_path: Path) -> None:
    for name in (*FOLDER, *NOT_READ):
        write(tmp_path / name, service("x"))
    (tmp_path / "folder.yaml").mkdir()
    assert files_of([str(tmp_path)]) == sorted(tmp_path / name for name in FOLDER)


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / ".config" / "a.yaml", service("a"))
    assert files_of([str(tmp_path / ".config")]) == [file]
    assert files_of([str(write(tmp_path / ".a.yaml", ""))]) == [tmp_path / ".a.yaml"]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", service("a"))
    assert files_of([str(tmp_path), str(file), f"{tmp_path}/./a.yaml"]) == [file]


def test_a_mounted_configmap_is_read_once_and_its_change_is_seen(tmp_path: Path) -> None:
    """The kubelet's layout: links to ..data, which is a link that
    moves to another hidden folder.
    """
    for version, name in (("..2026_1", "old"), ("..2026_2", "new")):
        write(tmp_path / version / "svc.yaml", service(name))
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "svc.yaml").symlink_to("..data/svc.yaml")
    before = signature([str(tmp_path)])
    assert files_of([str(tmp_path)]) == [tmp_path / "svc.yaml"]
    assert keys(tmp_path / "svc.yaml") == [("services", "default/old")]
    (tmp_path / "..next").symlink_to("..2026_2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert keys(tmp_path / "svc.yaml") == [("services", "default/new")]
    assert signature([str(tmp_path)]) != before


def test_a_hidden_folder_that_goes_meanwhile_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet removes the folder of a ConfigMap's last version; to list it fails then."""
    file = write(tmp_path / "a.yaml", service("a"))
    write(tmp_path / "..2026_1" / "b.yaml", service("b"))
    true_scandir = os.scandir

    def scandir(path: Path) -> object:
        if "..2026_1" in str(path):
            raise FileNotFoundError(2, "No such file or directory")
        return true_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert files_of([str(tmp_path)]) == [file]


def test_what_is_no_file_is_passed_over_and_what_cannot_be_known_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.yaml", service("a"))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "long.yaml").symlink_to("x" * 4000)
    assert files_of([str(tmp_path)]) == [file]

    def stale(_: Path, **_options: object) -> os.stat_result:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stale)
        with pytest.raises(OSError, match="Stale"):  # not an empty list, which would delete names
            files_of([f"{tmp_path}/"])


def test_the_signature_changes_with_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", service("a"))
    paths = [str(tmp_path), str(tmp_path / "missing.yaml")]
    seen = [signature(paths)]
    assert signature(paths) == seen[0]
    file.write_text(service("a") + "\n")
    seen.append(signature(paths))
    os.utime(file, ns=(1, 1))
    seen.append(signature(paths))
    write(tmp_path / "b.yaml", "")
    seen.append(signature(paths))
    file.unlink()
    seen.append(signature(paths))
    write(tmp_path / "missing.yaml", "")
    seen.append(signature(paths))
    assert all(one != other for index, one in enumerate(seen) for other in seen[:index])


# What is wrong with a file


@pytest.mark.parametrize(
    ("name", "text", "place", "problem"),
    [
        ("bad.yaml", "kind: Service\nmetadata: {name: a\n", ":3", "not valid YAML"),
        ("bad.yaml", "a: b\n c: d\n", ":2", "not valid YAML"),
        ("tab.yaml", "a:\n\tb: c\n", ":2", "not valid YAML"),
        ("second.yaml", f"{service('a')}---\n{service('b')}  }}\n", ":16", "not valid YAML"),
        ("tag.yaml", "kind: Service\nmetadata: !!python/object:os.system {}\n", ":2", "not valid YAML"),
        ("alias.yaml", "kind: Service\nmetadata: *missing\n", ":2", "not valid YAML"),
        ("key.yaml", "kind: Service\n? {a: b}\n: c\n", ":2", "not valid YAML"),
        ("bytes.yaml", b"a: b\nkind: \xff\n", ":2", "not valid YAML"),
        ("number.yaml", "a: 1\nb: " + "9" * 5000, "", "not valid YAML"),
        ("deep.yaml", "a: b\nc:\n  " + "[" * 1000, ":3", "deep"),
        ("deep flow.yaml", "kind: List\nitems: " + "[" * 200_000, ":2", "deep"),
        ("deep block.yaml", "- " * 200_000, ":1", "deep"),
        ("bad.json", '{"kind": "Service",\n "metadata": }', ":2", "not valid JSON"),
        ("cut.json", '{"kind": "Service",\n "metadata": {\n', ":3", "not valid JSON"),
        ("two.json", '{"kind": "Service"}\n{"kind": "Service"}', ":2", "not valid JSON"),
        ("bytes.json", b'{"a": 1,\n"kind": "\xff"}', ":2", "not valid JSON"),
        ("nan.json", '{"kind": "Service",\n"n": NaN}', ":2", "not valid JSON"),
        ("surrogate.json", '{"kind":"Service","apiVersion":"v1","metadata":{"name":"\\ud800"}}', "", "not valid JSON"),
        ("number.json", '{"kind": "Service", "n": ' + "9" * 5000 + "}", "", "not valid JSON"),
        ("deep.json", "[" * 200_000, "", "not valid JSON"),
        ("list.yaml", "- a\n- b\n", ":1", "not a list"),
        ("text.json", '"text"', ":1", "not a text"),
        ("kind.yaml", "# a comment\napiVersion: v1\nmetadata: {name: a}\n", ":2", "no kind"),
        ("items.yaml", "kind: List\nitems: {a: b}\n", ":1", "items of a List"),
        ("item.yaml", "kind: List\nitems: [a]\n", ":1", "an item of a List"),
        ("item.yaml", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n", ":1", "no kind"),
        ("type.yaml", f"{service('a')}---\n{service('b', ip='[10.0.0.1]')}", ":9", "Service b: .*spec.clusterIP"),
        ("port.yaml", f"{service('b')}  ports: [{{port: http}}]", ":1", r"Service b: .*spec.ports\[0\].port"),
        ("tag.yaml", 'kind: !!int ""', "", "not valid YAML"),
        ("boolean.yaml", "kind: !!bool maybe", "", "not valid YAML"),
        ("kind.yaml", "apiVersion: v1\nkind: [Service]\n", ":1", "the kind is text, not a list"),
        ("huge port.yaml", f"{service('b')}  ports: [{{port: {10**30}}}]", ":1", r"spec.ports\[0\].port"),
        ("yes.yaml", service("yes"), ":1", "metadata.name"),
        ("name.yaml", "apiVersion: v1\nkind: Service\nmetadata: {}\n", ":1", "Service without a name"),
        ("metadata.yaml", "apiVersion: v1\nkind: Service\nmetadata: [a]\n", ":1", "Service without a name"),
    ],
)
def test_a_bad_file_is_reported_with_its_line(
    name: str, text: str | bytes, place: str, problem: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, text)
    with pytest.raises(BadManifest, match=problem) as bad:
        read(file)
    assert str(bad.value).startswith(f"{file}{place}: "), bad.value
    assert "\n" not in str(bad.value)


def test_a_file_that_is_missing_or_a_folder_is_reported(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(BadManifest, match=str(file)):
            read(file)


CYCLE = "&a\nkind: List\nitems:\n- *a\n"
CYCLE_OF_TWO = "&a\nkind: List\nitems:\n- &b\n  kind: List\n  items: [*a, *b]\n"
#: Nine levels of nine: 387 million objects from a few lines.
BOMB = (
    "x0: &x0 {apiVersion: v1, kind: Pod, metadata: {name: p}}\n"
    + "".join(
        f"x{level}: &x{level} {{kind: List, items: [{', '.join([f'*x{level - 1}'] * 9)}]}}\n" for level in range(1, 10)
    )
    + "kind: List\nitems: [*x9]\n"
)


@pytest.mark.parametrize("text", [CYCLE, CYCLE_OF_TWO, BOMB], ids=["cycle", "cycle of two", "bomb"])
def test_a_list_that_is_inside_itself_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="List inside a list"):
        read(write(tmp_path / "bomb.yaml", text))


def test_an_alias_bomb_in_a_field_that_nobody_reads_costs_nothing(tmp_path: Path) -> None:
    lines = ["apiVersion: v1", "kind: Service", "metadata: {name: a}", "x0: &x0 [lol]"]
    lines += [f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]" for level in range(1, 30)]
    assert keys(write(tmp_path / "bomb.yaml", "\n".join(lines))) == [("services", "default/a")]


@pytest.mark.parametrize(
    "field", ["kind: *x29", "kind: Service\napiVersion: *x29", "kind: Service\nmetadata: {name: *x29}"]
)
def test_an_alias_bomb_is_never_written_out(field: str, tmp_path: Path) -> None:
    """As text, for a message or a comparison, it would have 9 to the power of 29 letters."""
    lines = ["x0: &x0 [lol]"]
    lines += [f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]" for level in range(1, 30)]
    lines += ["apiVersion: v1"] * ("apiVersion" not in field)
    file = write(tmp_path / "bomb.yaml", "\n".join([*lines, field, ""]))
    if "apiVersion" in field:
        assert keys(file) == []
    else:
        with pytest.raises(BadManifest, match=f"{file}:1: ") as bad:
            read(file)
        assert len(str(bad.value)) < 500


def test_a_bomb_of_merges_is_refused(tmp_path: Path) -> None:
    lines = ["x0: &x0 {lol: lol}"]
    lines += [f"x{level}: &x{level} {{<<: [{', '.join([f'*x{level - 1}'] * 9)}]}}" for level in range(1, 30)]
    with pytest.raises(BadManifest, match="merging makes too many keys"):
        read(write(tmp_path / "bomb.yaml", "\n".join([*lines, "kind: Service"])))


def test_an_object_that_holds_itself_is_read(tmp_path: Path) -> None:
    text = "&a\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: *a\nstatus: *a\n"
    assert keys(write(tmp_path / "self.yaml", text)) == [("services", "default/a")]


def test_nesting_as_objects_have_it_is_read(tmp_path: Path) -> None:
    text = f"{service('a')}status: {'[' * 400}{']' * 400}\n"
    assert keys(write(tmp_path / "nested.yaml", text)) == [("services", "default/a")]


def test_deep_nesting_does_not_kill_the_process(tmp_path: Path) -> None:
    """libyaml's composer overflows the C stack (SIGSEGV), so the test uses a separate process."""
    file = write(tmp_path / "deep.yaml", "kind: " + "[" * 300_000)
    program = "import sys, pathlib\nfrom headwater.cluster.files import Manifests\nm = Manifests(sys.argv[1:])\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "assert m.load() is None\nprint(*m.problems.values())", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    assert "deep.yaml:1: " in done.stdout


# All files together


def test_files_together_are_one_complete_list(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", service("a"))
    write(tmp_path / "b.json", '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"prod"}}')
    manifests = Manifests([str(tmp_path)])
    assert held(manifests.load()) == {
        "namespaces": {"/default", "/prod"},
        "services": {"default/a"},
        "pods": {"prod/p"},
    }
    assert not manifests.problems
    (tmp_path / "a.yaml").unlink()
    assert held(manifests.load()) == {"namespaces": {"/prod"}, "pods": {"prod/p"}}


def test_a_namespace_that_is_only_mentioned_is_there(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", f"{service('a', 'mentioned')}---\napiVersion: v1\nkind: Namespace\n"
          "metadata: {name: spelled-out, resourceVersion: '7'}\n---\n" + service("b", "spelled-out"))  # fmt: skip
    objects = Manifests([str(tmp_path)]).load()
    assert objects is not None
    assert {key: decoded.resource_version for key, decoded in objects["namespaces"].items()} == {
        ("", "mentioned"): "",
        ("", "spelled-out"): "7",
    }


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Unknown"])
def test_a_pod_that_is_done_is_left_out(phase: str, tmp_path: Path) -> None:
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nstatus: {{phase: {phase}, podIP: 10.0.0.1}}\n"
    assert held(Manifests([str(write(tmp_path / "p.yaml", text))]).load()) == {}


def test_no_files_are_a_complete_list_of_nothing(tmp_path: Path) -> None:
    assert held(Manifests([str(tmp_path)]).load()) == {}


@pytest.mark.parametrize("bad", ["kind: [", "kind: Service\napiVersion: v1\nmetadata: 7\n", None])
def test_a_file_that_turns_bad_keeps_what_it_said(
    bad: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write(tmp_path / "a.yaml", service("a")), write(tmp_path / "b.yaml", service("b"))
    manifests = Manifests([str(first), str(second)])
    manifests.load()
    if bad is None:
        first.unlink()
    else:
        first.write_text(bad)
    second.write_text(service("c"))
    for _ in range(2):  # the second time it is still bad, and the good state is still kept
        caplog.clear()
        assert held(manifests.load())["services"] == {"default/a", "default/c"}
        assert list(manifests.problems) == [first]
        assert manifests.problems[first].startswith(str(first))
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert str(first) in record.getMessage()
    write(first, service("d"))
    assert held(manifests.load())["services"] == {"default/d", "default/c"}
    assert not manifests.problems


def test_while_a_file_was_never_good_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A list without what that file holds would make its names NXDOMAIN (contract 1)."""
    good, bad = write(tmp_path / "a.yaml", service("a")), write(tmp_path / "b.yaml", "kind: [")
    manifests = Manifests([str(tmp_path)])
    assert manifests.load() is None
    assert list(manifests.problems) == [bad]
    assert "b.yaml:" in caplog.text
    bad.write_text(service("b"))
    assert held(manifests.load())["services"] == {"default/a", "default/b"}
    good.unlink()
    assert held(manifests.load())["services"] == {"default/b"}


def test_an_object_in_two_files_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.yaml", service("a", ip="10.0.0.1"))
    write(tmp_path / "b.yaml", service("a", ip="10.0.0.2"))
    objects = Manifests([str(tmp_path)]).load()
    assert objects is not None
    counted = objects["services"]["default", "a"].object
    assert isinstance(counted, Service)
    assert counted.cluster_ips == ("10.0.0.2",)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("a.yaml", "b.yaml", "default/a"):
        assert part in record.getMessage()


def test_objects_of_one_name_in_different_namespaces_are_no_duplicates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.yaml", service("a", "one"))
    write(tmp_path / "b.yaml", service("a", "two"))
    assert held(Manifests([str(tmp_path)]).load())["services"] == {"one/a", "two/a"}
    assert not caplog.records


# Selectors


def selecting(**texts: str) -> dict[Resource, Selector]:
    return {resource: parse(text) for resource, text in texts.items()}  # type: ignore[misc]


def labelled(kind: str, name: str, labels: str, api: str = "v1", namespace: str = "default") -> str:
    place = f", namespace: {namespace}" if kind != "Namespace" else ""
    return f"---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}{place}, labels: {labels}}}\n"


def test_a_selector_chooses_by_the_labels_of_the_object(tmp_path: Path) -> None:
    text = (
        labelled("Service", "ours", "{app: db}")
        + labelled("Service", "theirs", "{app: web}")
        + labelled("Service", "none", "null")
        + service("bare").replace("apiVersion", "---\napiVersion", 1)
        + labelled("EndpointSlice", "ours-1", "{app: db, kubernetes.io/service-name: ours}", "discovery.k8s.io/v1")
        + labelled("EndpointSlice", "other", "{kubernetes.io/service-name: ours}", "discovery.k8s.io/v1")
        + labelled("Pod", "free", "{app: web}")
    )
    file = write(tmp_path / "a.yaml", text)
    chosen = selecting(services="app=db", endpointslices="app=db")
    assert held(Manifests([str(file)], chosen).load()) == {
        "namespaces": {"/default"},
        "services": {"default/ours"},
        "endpointslices": {"default/ours-1"},
        "pods": {"default/free"},
    }
    assert [key for key, _ in read(file, chosen)] == ["services", "endpointslices", "pods"]
    assert held(Manifests([str(file)], selecting(services="app!=db")).load())["services"] == {
        "default/theirs", "default/none", "default/bare",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "served"),
    [
        ("", {"/spelled-out", "/other", "/mentioned"}),
        ("team", {"/spelled-out", "/other"}),
        ("team=db", {"/spelled-out"}),
        ("team!=db", {"/other", "/mentioned"}),
        ("!team", {"/mentioned"}),
        ("gone", set()),
    ],
)
@pytest.mark.parametrize("first", ["namespaces", "services"])
def test_a_namespace_that_is_only_mentioned_has_no_labels(
    selector: str, served: set[str], first: str, tmp_path: Path
) -> None:
    """A namespace with a manifest of its own that is not selected stays
    out, even if objects name it.
    """
    namespaces = labelled("Namespace", "spelled-out", "{team: db}") + labelled("Namespace", "other", "{team: web}")
    names = ("spelled-out", "other", "mentioned")
    services = "".join(labelled("Service", "a", "{}", namespace=name) for name in names)
    text = namespaces + services if first == "namespaces" else services + namespaces
    found = held(Manifests([str(write(tmp_path / "a.yaml", text))], selecting(namespaces=selector)).load())
    assert found.get("namespaces", set()) == served
    assert len(found["services"]) == 3, "objects are chosen by their own labels"


def test_an_object_that_is_not_selected_still_mentions_its_namespace(tmp_path: Path) -> None:
    """As with an API server, the namespace exists, whatever the labels of its objects are."""
    file = write(tmp_path / "a.yaml", labelled("Service", "a", "{app: web}"))
    assert held(Manifests([str(file)], selecting(services="app=db")).load()) == {"namespaces": {"/default"}}


def test_labels_that_change_in_a_file_choose_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    manifests = Manifests([str(file)], selecting(services="app=db"))
    for labels, chosen in (("{app: db}", True), ("{app: web}", False), ("{app: db, b: c}", True), ("{}", False)):
        write(file, labelled("Service", "a", labels))
        assert ("services" in held(manifests.load())) is chosen, labels


@pytest.mark.parametrize(("last", "found"), [("{app: db}", {"default/a"}), ("{app: web}", set())])
def test_of_an_object_in_two_files_the_last_one_is_chosen_or_not(last: str, found: set[str], tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", labelled("Service", "a", "{app: db}"))
    write(tmp_path / "b.yaml", labelled("Service", "a", last))
    objects = held(Manifests([str(tmp_path)], selecting(services="app=db")).load())
    assert objects.get("services", set()) == found


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("{app: 7}", "the label app is text, not a number: put it in quotes"),
        ("{ready: yes}", "the label ready is text, not a boolean: put it in quotes"),
        ("[app]", "metadata.labels is a mapping, not a list"),
        ("app", "metadata.labels is a mapping, not a text"),
    ],
)
def test_labels_that_the_api_would_not_take_are_reported_when_they_are_asked_for(
    labels: str, problem: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.yaml", labelled("Service", "a", labels))
    with pytest.raises(BadManifest, match=f"{file}:2: Service a: {problem}"):
        read(file, selecting(services="app=7"))
    assert keys(file) == [("services", "default/a")], "nobody asks: nobody minds"


def test_a_label_without_a_value_is_empty(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", labelled("Service", "a", "{app: , b: ''}"))
    assert read(file, selecting(services="app=,b="))
