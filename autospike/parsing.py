"""Parsing of YAML and JSON text within limits, so that a small text cannot take long or expand to a large value."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

# An experiment with its search space has fewer than 2,000 values, nested 12 deep. PyYAML parses about 20,000 values per second.
MAX_YAML_CHARACTERS = 1_000_000
MAX_YAML_VALUES = 20_000
MAX_DEPTH = 40
# Whole numbers of YAML and JSON have at most 64 bits. The seed is the only field that takes numbers of that size.
MAX_INTEGER = 2**64 - 1
MAX_PROBLEM_CHARACTERS = 200  # of PyYAML's description of an error, which may quote the text

# What PyYAML's constructors raise for unusual tags: IndexError for `!!int ""`, AttributeError for `!!timestamp x`, KeyError for
# `!!bool x`, TypeError for `!!set [a]`, OverflowError for years, and so on.
_CONSTRUCTOR_ERRORS = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


def parse_yaml(text: str) -> Any:
    """Parse YAML. Duplicate keys in a mapping are an error.

    Args:
        text: The YAML text.

    Returns:
        Mappings, sequences and scalars.

    Raises:
        ValueError: The text is not YAML, has a duplicate key, or exceeds a limit of this module. The message is one line.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"{len(text):,} characters; at most {MAX_YAML_CHARACTERS:,} are read")
    try:
        return yaml.load(text, Loader=_LimitedLoader)
    except _LimitError as error:
        raise ValueError(str(error)) from None
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(problem if len(problem) <= MAX_PROBLEM_CHARACTERS else f"{problem[:MAX_PROBLEM_CHARACTERS]} ...") from None
    except _CONSTRUCTOR_ERRORS:
        raise ValueError("a tag (a word that begins with !!) does not fit its value; leave tags out") from None


def parse_json(text: str) -> Any:
    """Parse JSON.

    Args:
        text: The JSON text.

    Returns:
        The value as `json.loads` returns it.

    Raises:
        ValueError: The text is not JSON, or exceeds a limit of this module. The message is one line.
    """
    try:
        return json.loads(text, parse_int=_limited_integer)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def _limited_integer(digits: str) -> int:
    """Convert the digits of a JSON number."""
    if len(digits) > len(str(MAX_INTEGER)) + 1:
        raise ValueError(f"a whole number of {len(digits)} digits; at most 64 bits are read")
    return int(digits)


class _LimitError(ValueError):
    """A text exceeds a limit of this module. The message is one short line."""


class _LimitedLoader(yaml.SafeLoader):
    """YAML loader with limits that rejects duplicate keys. PyYAML would use the last of them without a message.

    An alias counts as many values as what it repeats. A value that contains itself is an error.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._open: set[str] = set()  # anchors of the collections that are being read
        self._repeated: dict[str, int] = {}  # number of values below an anchor

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._values
        where = f"at line {event.start_mark.line + 1}"
        alias = isinstance(event, yaml.AliasEvent)
        if alias and event.anchor in self._open:
            raise _LimitError(f"the value &{event.anchor:.40} {where} contains itself; write it without the alias")
        self._values += self._repeated.get(event.anchor, 1) if alias else 1
        if self._values > MAX_YAML_VALUES:
            raise _LimitError(f"more than {MAX_YAML_VALUES:,} values {where}, where aliases count as what they repeat")
        if isinstance(event, yaml.ScalarEvent) and any("\ud800" <= c <= "\udfff" for c in event.value):
            raise _LimitError(f"half of a surrogate pair {where}; write the character itself")
        if self._depth >= MAX_DEPTH:
            raise _LimitError(f"values are nested more than {MAX_DEPTH} deep {where}")
        anchor = None if alias else getattr(event, "anchor", None)
        if anchor is not None:
            self._open.add(anchor)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None:
            self._open.discard(anchor)
            self._repeated[anchor] = self._values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            try:
                duplicate = key in known
            except TypeError:
                raise _LimitError(f"the key at line {line} is a {type(key).__name__}; keys are words") from None
            if duplicate:
                start = node.start_mark.line + 1
                raise _LimitError(f"duplicate key {str(key)[:40]!r} in the mapping at line {start}; keep one of them")
            known.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 100:
            raise _LimitError(f"a number of {len(node.value)} characters at line {node.start_mark.line + 1}")
        _check_base(node)
        number: int = super().construct_yaml_int(node)
        if abs(number) > MAX_INTEGER:
            raise _LimitError(
                f"a whole number of {len(str(abs(number)))} digits at line {node.start_mark.line + 1}; it has at most 64 bits"
            )
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _check_base(node)
        number: float = super().construct_yaml_float(node)
        return number


def _check_base(node: yaml.ScalarNode) -> None:
    """Refuse the numbers of YAML 1.1 that look decimal, but are not: 1:30 is 90, in base 60, and 032 is 26, in base 8."""
    text = node.value.lstrip("+-")
    base = 60 if ":" in text else 8 if re.fullmatch(r"0[0-7_]+", text) and text.strip("0_") else 10
    if base != 10:
        where = f"at line {node.start_mark.line + 1}"
        raise _LimitError(f"{node.value[:40]} {where} is a number in base {base} in YAML; write it in base 10, or a text in quotes")


_LimitedLoader.add_constructor("tag:yaml.org,2002:int", _LimitedLoader.construct_yaml_int)
_LimitedLoader.add_constructor("tag:yaml.org,2002:float", _LimitedLoader.construct_yaml_float)
