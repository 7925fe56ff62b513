"""YAML and JSON within limits: what is read, and what is one short line."""

from __future__ import annotations

import time

import pytest

from autospike.parsing import parse_json, parse_yaml


def expanding(width: int, levels: int) -> str:
    """A YAML mapping whose last alias stands for `width ** levels` words."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: [1, 2.5, x, null, true]", {"a": [1, 2.5, "x", None, True]}),
        ("a: &a {b: 1}\nc: *a", {"a": {"b": 1}, "c": {"b": 1}}),
        (f"a: {2**64 - 1}", {"a": 2**64 - 1}),
        ("a: [0, 1_000, 0x1f, 0.5, '1:30', '032']", {"a": [0, 1000, 31, 0.5, "1:30", "032"]}),
        ("[" * 40 + "]" * 40, None),
        ('"\\u00e9"', "é"),
    ],
)
def test_yaml_within_the_limits(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert value is None or found == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: {c: *a}}", "contains itself"),
        (expanding(10, 9), "more than 20,000 values"),
        ("[" * 41 + "]" * 41, "nested more than 40 deep"),
        ("{a: " * 100_000, "nested more than 40 deep"),
        (f"a: {2**64}", "a whole number of 20 digits at line 1"),
        (f"\na: -{'9' * 400}", "a number of 401 characters at line 2"),
        (f"a: 0x{'f' * 90}", "a whole number of 109 digits"),
        ("x" * 1_000_001, "1,000,001 characters"),
        ("a: 1:30", "1:30 at line 1 is a number in base 60"),
        ("a: 1:30.5", "1:30.5 at line 1 is a number in base 60"),
        ("\na: -032", "-032 at line 2 is a number in base 8"),
        ("? [1]\n: 2", "the key at line 1 is a list"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("2020-99-99", "month must be in 1..12"),
        ("a: [", "expected the node content"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("\0", "special characters are not allowed"),
        *((text, "a tag") for text in ("!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!set [a]")),
    ],
)
def test_yaml_that_is_not_read_is_a_short_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 250


def test_an_expanding_yaml_is_rejected_at_once() -> None:
    """0.7 KB that stand for a billion words."""
    started = time.process_time()
    with pytest.raises(ValueError, match="more than 20,000 values"):
        parse_yaml(expanding(10, 9))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 30, "-" + "9" * 5000, "{", "nul", "[1,]"])
def test_json_that_is_not_read_is_a_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_json_within_the_limits() -> None:
    assert parse_json('{"a": [1, -18446744073709551615, 1e3, null, true]}') == {"a": [1, 1 - 2**64, 1000.0, None, True]}
