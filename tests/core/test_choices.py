"""What a file holds becomes a record by the types of its fields, or is refused in one line."""

from dataclasses import asdict, dataclass, field

import pytest

from jaxsharp.core.choices import (
    construct,
    each_once,
    known,
    known_list,
    plain,
    shown,
)


@dataclass(frozen=True)
class Inner:
    rate: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Record:
    count: int
    names: tuple[str, ...]
    inner: Inner = Inner()
    axes: dict[str, tuple[int | float, ...]] = field(default_factory=dict)


WHOLE = {"count": 3, "names": ["a"], "inner": {"rate": 1, "text": "x"}, "axes": {"b": [1, 0.5]}}


def refusal(call, *arguments):
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    said = str(caught.value)
    assert said.isprintable() and said.isascii() and len(said) < 300
    return said


def test_a_record_is_read_with_its_defaults_and_its_numbers_as_they_are():
    found = construct(Record, WHOLE)
    assert found == Record(3, ("a",), Inner(1, "x"), {"b": (1, 0.5)})
    assert type(found.inner.rate) is int
    assert construct(Record, {**asdict(found), "names": ["a"], "axes": {"b": [1, 0.5]}}) == found
    assert construct(Record, {"count": 0, "names": []}) == Record(0, ())
    assert construct(Inner, {"rate": None}) == Inner()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": True}, "count is True; it must be a whole number"),
        ({"count": 1.0}, "count is 1.0; it must be a whole number"),
        ({"count": 2**60}, f"count is {2**60}; it must be a whole number"),
        ({"count": "3"}, "count is '3'; it must be a whole number"),
        ({"names": "a"}, "names is 'a'; it must be a list"),
        ({"names": ["a", 3]}, "names is 3; it must be a text of one line"),
        ({"names": ["a\nb"]}, r"names is 'a\nb'; it must be a text of one line"),
        ({"names": [["a"]]}, "names is ['a']; it must be a text of one line"),
        ({"inner": None}, "inner is None; it must be an object"),
        ({"inner": {"rate": "1"}}, "inner.rate is '1'; it must be a finite number or null"),
        ({"inner": {"rate": float("nan")}}, "inner.rate is nan; it must be a finite number"),
        ({"inner": {"rate": float("inf")}}, "inner.rate is inf; it must be a finite number"),
        ({"inner": {"rate": False}}, "inner.rate is False; it must be a finite number or null"),
        ({"inner": {"\u0455": 1}}, r"'inner.\u0455' is no field; valid are rate, text"),
        ({"axes": {"a\nb": [True]}}, r"axes['a\nb'] is True; it must be a whole number or a"),
        ({"axes": []}, "axes is []; it must be an object"),
        ({"more": 1}, "'more' is no field; valid are count, names, inner, axes"),
        ({"count": ["long"] * 999}, "characters); it must be a whole number"),
    ],
)
def test_another_type_is_refused_by_field_value_and_what_is_valid(changes, said):
    assert said in refusal(construct, Record, {**WHOLE, **changes})


def test_what_is_missing_or_no_object_is_refused():
    assert refusal(construct, Record, {"count": 3}) == "names is missing"
    assert refusal(construct, Record, [3]) == "Record is [3]; it must be an object"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\n", "\u0430", "-a", "a" * 101])
def test_a_name_that_could_be_no_data_set_is_refused(name):
    assert "it must be a name of letters, digits and . + - _" in refusal(plain, "dataset", name)
    assert plain("dataset", "cifar-10.v2_a+b") == "cifar-10.v2_a+b"


def test_names_are_known_and_each_there_once():
    each_once("letter", ("a", "b"), "abc")
    assert refusal(each_once, "letter", ("a", "d"), "abc").startswith("unknown letter 'd'")
    for names in ((), ("a", "a")):
        assert "they must be one or more, each once" in refusal(each_once, "letter", names, "abc")
    assert refusal(known, "letter", "a" * 10**6, "abc").startswith("unknown letter 'aaa")


def test_a_value_is_shown_on_one_short_line():
    assert shown("a\n\x1b\ud800\u0455") == r"'a\n\x1b\ud800\u0455'"
    assert shown([1, "a"]) == "[1, 'a']"
    assert len(shown("x" * 10**6)) < 100 and "1000002 characters" in shown("x" * 10**6)


def test_of_many_valid_names_the_closest_are_named():
    valid = [f"name_{number}" for number in range(43)]
    said = refusal(known, "measure", "name_31x", valid)
    assert said.startswith("unknown measure 'name_31x'; valid are name_31, ")
    assert said.count("name_") == 21 and said.endswith(" and 23 more")
    assert refusal(known_list, "measure", ",", valid).endswith(", name_19 and 23 more")
    assert refusal(known, "measure", "x", valid[:20]).count("name_") == 20


def test_names_may_have_commas_themselves():
    valid = ["a", "a, b", "b", "b,c, d", "1.0"]
    assert known_list("column", "a, b", valid) == ("a, b",)
    assert known_list("column", "b ,a, b,a", valid) == ("b", "a, b", "a")
    assert known_list("column", "b,c, d,1.0,b", valid) == ("b,c, d", "1.0", "b")
    assert known_list("column", "1,1.0", valid, lambda text: text[:1] + ".0") == ("1.0",)
    assert refusal(known_list, "column", "b, c", valid).startswith("unknown column 'c'")
