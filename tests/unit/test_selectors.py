"""Label selectors: valid and invalid ones, what they select, and the form for the API server."""

from __future__ import annotations

import pytest
from headwater.settings.selectors import EVERYTHING, BadSelector, parse
from hypothesis import given
from hypothesis import strategies as st

LONGEST_PREFIX = ".".join(["p" * 63] * 3 + ["q" * 61])

DB = {"tier": "db", "generation": "7", "empty": "", "example.org/team": "storage"}


@pytest.mark.parametrize(
    ("text", "canonical", "selected"),
    [
        ("", "", True),
        (" \t\r\n", "", True),
        ("tier=db", "tier=db", True),
        ("tier==db", "tier=db", True),
        (" tier = db ", "tier=db", True),
        ("tier=web", "tier=web", False),
        ("other=db", "other=db", False),
        ("tier!=db", "tier notin (db)", False),
        ("tier!=web", "tier notin (web)", True),
        ("other!=db", "other notin (db)", True),
        ("tier in (web, db)", "tier in (db,web)", True),
        ("tier in(web)", "tier=web", False),
        ("other in (db)", "other=db", False),
        ("tier notin (web,db,web)", "tier notin (db,web)", False),
        ("tier notin (web)", "tier notin (web)", True),
        ("other notin (db)", "other notin (db)", True),
        ("tier", "tier", True),
        ("other", "other", False),
        ("!tier", "!tier", False),
        ("! other", "!other", True),
        ("example.org/team=storage", "example.org/team=storage", True),
        # An empty value differs from a missing label.
        ("empty=", "empty=", True),
        ("empty in ()", "empty=", True),
        ("other=", "other=", False),
        ("tier=,empty", "empty,tier=", False),
        ("tier in (,db)", "tier in (,db)", True),
        ("tier in (db,,)", "tier in (,db)", True),
        ("empty!=", "empty notin ()", False),
        # Numbers are compared as numbers; other values do not compare.
        ("generation>6", "generation>6", True),
        ("generation > 7", "generation>7", False),
        ("generation<10", "generation<10", True),
        ("generation<07", "generation<07", False),
        ("tier>0", "tier>0", False),
        ("tier<0", "tier<0", False),
        ("other<9", "other<9", False),
        # All operators, in any order.
        ("tier=db,generation", "generation,tier=db", True),
        ("tier=db , !other", "!other,tier=db", True),
        ("tier=db,other", "other,tier=db", False),
        ("tier=db,tier=web", "tier=db,tier=web", False),
        ("tier=db,tier==db,tier in (db)", "tier=db", True),
        # The operators' words may be names and values too.
        ("in=notin", "in=notin", False),
        ("in in (in)", "in=in", False),
        ("notin notin (notin)", "notin notin (notin)", True),
        ("!in", "!in", True),
    ],
)
def test_what_is_selected_and_what_is_asked_of_the_server(text: str, canonical: str, selected: bool) -> None:
    selector = parse(text)
    assert str(selector) == canonical
    assert selector.matches(DB) is selected
    assert parse(canonical) == selector


def test_order_spaces_and_repetition_make_no_other_selector() -> None:
    assert parse("a=b,c in (e,d)") == parse(" c in ( d , e ,d), a == b, a=b ")
    assert parse("") == EVERYTHING
    assert parse("a=b") != parse("a!=b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a b", "'b' stands where one of =, ==, !="),
        ("a=b c", "'c' stands where ',' or the end"),
        ("a=b=c", "'=' stands where ',' or the end"),
        ("a===b", "'=' stands where a label's value"),
        ("a=!b", "'!' stands where a label's value"),
        ("=b", "'=' stands where a label's name"),
        ("a=b,", "it ends where a label's name"),
        (",a=b", "',' stands where a label's name"),
        ("a=b,,c=d", "',' stands where a label's name"),
        ("!", "it ends where a label's name"),
        ("!!a", "'!' stands where a label's name"),
        ("!a=b", "'=' stands where ',' or the end"),
        ("!a in (b)", "'in' stands where ',' or the end"),
        ("a in", r"it ends where '\('"),
        ("a in b", r"'b' stands where '\('"),
        ("a in (b", r"it ends where ',' or '\)'"),
        ("a in (", r"it ends where a label's value or '\)'"),
        ("a in (b,", r"it ends where a label's value or '\)'"),
        ("a in (b c)", r"'c' stands where ',' or '\)'"),
        ("a in (b)c", "'c' stands where ',' or the end"),
        ("(a)", r"'\(' stands where a label's name"),
        ("a>", "'' after '>' is not an integer"),
        ("a>b", "'b' after '>' is not an integer"),
        ("a<1.5", "'1.5' after '<' is not an integer"),
        ("a>-1", "'-1' is not a label's value"),
        (f"a>{2**63}", "is not an integer"),
        ("-a=b", "'-a' is not a label's name"),
        ("a.=b", "'a.' is not a label's name"),
        ("é=b", "'é' is not a label's name"),
        ("a*=b", r"'a\*' is not a label's name"),
        ("a" * 64, "more than 63"),
        ("example.org/" + "a" * 64, "more than 63"),
        ("example.org/=b", "'example.org/' is not a label's name"),
        ("/a=b", "its prefix is not a DNS name"),
        ("Example.org/a", "its prefix is not a DNS name"),
        ("example..org/a", "its prefix is not a DNS name"),
        ("a_b/c", "its prefix is not a DNS name"),
        ("a/b/c", "its prefix is not a DNS name"),
        (f"{LONGEST_PREFIX}x/a", "its prefix is not a DNS name"),
        ("a=b-", "'b-' is not a label's value"),
        ("a in (b,_c)", "'_c' is not a label's value"),
        ("a=b/c", "'b/c' is not a label's value"),
        ("a=\u00a0", "is not a label's value"),
        ("a=" + "b" * 64, "more than 63"),
    ],
)
def test_what_is_no_selector_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(BadSelector, match=problem) as bad:
        parse(text)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize(
    "text", [f"{LONGEST_PREFIX}/{'a' * 63}={'b' * 63}", f"a>{2**63 - 1}", f"a<{'0' * 62}7", "0/0=0", "A.b_C-d=A.b_C-d"]
)
def test_names_and_values_at_the_edge_are_taken(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("value", ["", "x", "1.5", "+", str(2**63), "9" * 5000, "\u0667"])
def test_a_label_that_is_no_number_of_64_bits_compares_with_nothing(value: str) -> None:
    """Manifests may have labels that no server has checked."""
    assert not parse("a>0").matches({"a": value})
    assert not parse(f"a<{2**63 - 1}").matches({"a": value})


def test_a_signed_label_is_a_number() -> None:
    assert parse("a<0").matches({"a": "-5"})
    assert parse("a>4").matches({"a": "+5"})


# Compared with the meaning, spelled out

KEYS = st.sampled_from(["a", "b", "in", "notin", "x/a"])
VALUES = st.sampled_from(["", "a", "in", "5", "07", "x_1.y-Z"])
SPACES = st.sampled_from(["", " ", "\t "])
Condition = tuple[str, str, list[str]]
NUMBERS = st.integers(0, 9).map(lambda number: [str(number)])
CONDITIONS: st.SearchStrategy[Condition] = st.one_of(
    st.tuples(KEYS, st.sampled_from(["exists", "absent"]), st.just([])),
    st.tuples(KEYS, st.sampled_from(["=", "==", "!="]), st.lists(VALUES, min_size=1, max_size=1)),
    st.tuples(KEYS, st.sampled_from(["in", "notin"]), st.lists(VALUES, min_size=1, max_size=3)),
    st.tuples(KEYS, st.sampled_from(["<", ">"]), NUMBERS),
)
LABELS = st.dictionaries(KEYS, VALUES)


def written(condition: Condition, space: str) -> str:
    key, operator, values = condition
    match operator:
        case "exists":
            return f"{space}{key}{space}"
        case "absent":
            return f"!{space}{key}"
        case "in" | "notin":
            return f"{key} {operator}{space}({f',{space}'.join(values)})"
    return f"{space}{key}{space}{operator}{space}{values[0]}"


def meant(condition: Condition, labels: dict[str, str]) -> bool:
    """Return what the Kubernetes documentation says about each operator."""
    key, operator, values = condition
    match operator:
        case "exists":
            return key in labels
        case "absent":
            return key not in labels
        case "=" | "==" | "in":
            return key in labels and labels[key] in values
        case "!=" | "notin":
            return key not in labels or labels[key] not in values
    if not labels.get(key, "").isdigit():
        return False
    return int(labels[key]) > int(values[0]) if operator == ">" else int(labels[key]) < int(values[0])


@given(st.lists(CONDITIONS, max_size=4), SPACES, LABELS)
def test_a_selector_means_what_its_conditions_mean(
    conditions: list[Condition], space: str, labels: dict[str, str]
) -> None:
    selector = parse(",".join(written(condition, space) for condition in conditions))
    assert selector.matches(labels) == all(meant(condition, labels) for condition in conditions)
    assert parse(str(selector)) == selector


@given(st.text(st.sampled_from("aA5-_./=!<>(), \tinot\u00e9"), max_size=30))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    try:
        selector = parse(text)
    except BadSelector:
        return
    assert parse(str(selector)) == selector
