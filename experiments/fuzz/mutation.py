"""Mutations of values, text and bytes. All randomness comes from the generator that is passed in."""

from __future__ import annotations

import copy
import datetime
import random
from pathlib import Path
from typing import Any

import yaml

DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]

# Values that programs often do not expect.
UNEXPECTED: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 16, 2**31 - 1, 2**31, 2**63, 10**18, 10**400, -(10**400),
    0.0, -0.0, 0.5, 1.5, 1e-320, 1e-12, 1e6, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "x", "x" * 5000,
    "a\0b", "\x1b[31mred", "é", "\u2028", "0", "-1", "1e400", "nan", "inf", "9" * 400, "../..", "/", "/proc",
    "/dev/zero", "/proc/self/mem", "a/" * 2500, "{", "%s", "${HOME}", "null",
    [], {}, [[]], [None], [0, 0], {"a": 1}, {"": None}, {1: 2}, DEEP, list(range(200)), {str(i): i for i in range(200)},
    datetime.date(2020, 1, 1), b"bytes",
)  # fmt: skip

# YAML text that PyYAML reads in unusual ways.
UNUSUAL_YAML = (
    "!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary é", "!!binary AAAA", "!!set [a]", "!!omap [a]",
    "!!pairs {a: b}",
    "!!python/object/apply:os.system [true]", "!unknown x", "&a [*a]", "&a {b: *a}", "*missing", "? [1]\n: 2", "{? {a: 1} : 2}",
    "<<: {a: 1}", "=", "~", "0x" + "f" * 90, "0b2", "1:1:1:1", ".inf", "-.inf", ".nan", "2020-99-99", "0o8", "1_000", "%TAG", "@x",
    "`x",
    '"\\ud800"', '"\\0"', "'", '"', "[" * 2000, "{a: " * 2000, "- " * 500, "\t", "---\n---\n", "|\n x\n", "9" * 400, "1e999", "# x",
)  # fmt: skip


def bomb(width: int = 9, levels: int = 9) -> str:
    """Return a small YAML mapping whose aliases expand to `width ** levels` values."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Return a copy of nested dicts and lists with one to three changes."""
    root = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        root = root or {"": None}  # the whole value was removed
        places = list(_places(root))
        container, key = rng.choice(places)
        _change(container, key, places, rng)
    return root.get("")


def _places(container: Any) -> Any:
    """Yield every container with every key or index in it."""
    for key in list(container) if isinstance(container, dict) else range(len(container)):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])


def _change(container: Any, key: Any, places: list[Any], rng: random.Random) -> None:
    value = container[key]
    kind = rng.randrange(10)
    if kind <= 2 and isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = rng.choice(
            (
                value + 1,
                value - 1,
                value * 2,
                value // 2,
                value * 0.5 if abs(value) < 10**300 else value,
                -value,
                value * 1000,
                value * 10**6,
                [value, value * 2],
            )
        )
    elif kind == 3:
        other, name = rng.choice(places)
        container[key] = copy.deepcopy(other[name]) if other is not container or name != key else None
    elif kind == 4:
        del container[key]
    elif kind == 5 and isinstance(container, dict):
        container[rng.choice(("unknown", f"{key}s", "x" * 3000, "a\nb", ""))] = container.pop(key)
    elif kind == 6 and isinstance(container, list):
        container.extend([copy.deepcopy(value)] * rng.choice((1, 2, 300)))
    elif kind == 7 and isinstance(value, list):
        rng.shuffle(value)
    elif kind == 8:
        container[key] = [value]
    else:
        container[key] = copy.deepcopy(rng.choice(UNEXPECTED))


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a YAML or JSON text with a change that its structure does not know."""
    lines = text.splitlines(keepends=True) or [""]
    index = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        head, colon, _ = lines[index].partition(":")
        lines[index] = f"{head}{colon} {rng.choice(UNUSUAL_YAML)}\n"
    elif kind == 1:
        lines.insert(index, rng.choice(UNUSUAL_YAML) + "\n")
    elif kind == 2:
        lines.insert(0, bomb(rng.choice((2, 9)), rng.choice((3, 9, 60))))
    elif kind == 3:
        del lines[index:]
    elif kind == 4:
        lines[index] *= rng.choice((2, 200))
    else:
        position = rng.randrange(len(text) + 1)
        inserted = rng.choice(("\x00", "\t", "{", "]", '"', ":", "&", "*", "\ufeff", "\x85", "-"))
        return text[:position] + inserted + text[position:]
    return "".join(lines)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes that are truncated, overwritten, inserted, removed or repeated in places."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        position = rng.randrange(len(data) + 1) if rng.random() < 0.7 else rng.randrange(min(64, len(data)) + 1)
        count = rng.choice((1, 1, 2, 4, 16, 256))
        match rng.randrange(6):
            case 0:
                del data[position:]
            case 1:
                data[position : position + count] = rng.randbytes(count)
            case 2:
                data[position:position] = rng.randbytes(count)
            case 3:
                del data[position : position + count]
            case 4:
                data[position : position + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
            case _:
                if position < len(data):
                    data[position] ^= 1 << rng.randrange(8)
    return bytes(data)


def write_mutated_yaml(path: Path, value: Any, rng: random.Random) -> None:
    """Write a mutated value as YAML, sometimes with a mutated text as well."""
    if rng.random() < 0.7:
        value = mutated_value(value, rng)
    text = yaml.safe_dump(value, sort_keys=False)
    if rng.random() < 0.3:
        text = mutated_text(text, rng)
    content = text.encode("utf-8", errors="surrogatepass")
    path.write_bytes(mutated_bytes(content, rng) if rng.random() < 0.05 else content)
