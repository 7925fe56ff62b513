"""Messages are one printable line of limited length, whatever they quote."""

from __future__ import annotations

import pytest

from autospike.errors import MAX_MESSAGE, one_line, quoted

NESTED: list[object] = []
for _ in range(50):
    NESTED = [NESTED] * 50


LARGE = {
    "nested lists": NESTED,
    "text": "x" * 10**6,
    "list": list(range(10**5)),
    "mapping": dict.fromkeys(range(1000), "x" * 1000),
    "4,000 digits": 10**4000,
    "more digits than Python converts": 10**6000,
    "bytes": b"x" * 10**6,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_quoted_value_is_short(name: str) -> None:
    assert len(quoted(LARGE[name])) <= 200


@pytest.mark.parametrize("value", [3, 0.5, "word", None, [1, 2], {"a": 1}])
def test_a_short_value_is_quoted_in_full(value: object) -> None:
    assert quoted(value) == repr(value)


def test_a_message_is_one_printable_line() -> None:
    assert one_line("a\nb \t c") == "a b c"
    assert one_line("a\x1b[31m\0\ud800") == "a\\x1b[31m\\x00\\ud800"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = one_line("begin " + "x" * 10_000 + " end")
    assert len(message) <= MAX_MESSAGE < 500 - len("error: ")
    assert message.startswith("begin ")
    assert message.endswith(" end")
