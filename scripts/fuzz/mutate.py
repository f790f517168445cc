"""How `run.py` changes files: bytes at random, boundary values where numbers may be, and texts by their grammar."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Mutate = Callable[[random.Random, bytes, bytes], bytes]  # of a file, beside another one to take parts of

INTEGERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
FLOATS = (0.0, -0.0, 1e-45, -1.0, 3.4e38, 1.8e308, float("nan"), float("inf"), float("-inf"))
WORDS = (
    *("", " ", "0", "-1", "+5", "1_0", "1.5", "1e400", "1e-400", "nan", "-inf", "true", "null", "auto", "cpu", "gpu:0"),
    *(
        "9" * 30,
        "9" * 5000,
        "0x10",
        "\u0663",
        "\u00e9",
        "\u202e",
        "\x1b[2J",
        "=",
        "-",
        "--",
        "--help",
        "%s",
        "{}",
        "a" * 300,
    ),
)


def mutate_bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change a file in one to eight places."""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        content = rng.choice(CHANGES)(rng, content, other)
    return content


def _place(rng: random.Random, content: bytes) -> int:
    """Return a place in the content, often near its beginning, where headers are."""
    return rng.randrange(min(len(content), rng.choice((8, 64, len(content)))) + 1) if content else 0


def _flip(rng: random.Random, content: bytes, _: bytes) -> bytes:
    if not content:
        return content
    at = min(_place(rng, content), len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _truncate(rng: random.Random, content: bytes, _: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: random.Random, content: bytes, _: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 256))) + content[at:]


def _integer(rng: random.Random, content: bytes, _: bytes) -> bytes:
    """Write a number at which something may overflow over what is there."""
    at, size = _place(rng, content), rng.choice((1, 2, 4, 8))
    number = rng.choice(INTEGERS) % (1 << 8 * size)
    return content[:at] + number.to_bytes(size, rng.choice(("big", "little"))) + content[at + size :]


def _copy(rng: random.Random, content: bytes, _: bytes) -> bytes:
    start, at = _place(rng, content), _place(rng, content)
    return content[:at] + content[start : start + rng.choice((1, 8, 64, 1024))] * rng.choice((1, 2, 50)) + content[at:]


def _remove(rng: random.Random, content: bytes, _: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + content[at + rng.choice((1, 4, 16, 100)) :]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: _place(rng, content)] + other[_place(rng, other) :]


CHANGES = (_flip, _flip, _integer, _integer, _truncate, _insert, _copy, _remove, _splice)


def mutate_tokens(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change the arguments of a command line, which NUL separates."""
    tokens, others = content.decode("utf-8", "surrogateescape").split("\0"), other.decode().split("\0")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(tokens) + 1)
        changed = mutate_bytes(rng, "".join(tokens[at : at + 1]).encode("utf-8", "surrogateescape"), b"").replace(
            b"\0", b""
        )
        new = rng.choice(([], [rng.choice(WORDS)], [rng.choice(others)], [changed.decode("utf-8", "surrogateescape")]))
        tokens[at : at + rng.choice((0, 1, 1, 1))] = new
    return "\0".join(tokens).encode("utf-8", "surrogateescape")


def mutate_json(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change one value in a JSON text, or its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content, other)
    described = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(described))
        holder, key = rng.choice(places)
        change = rng.randrange(3)
        if change == 0:
            del holder[key]
        elif change == 1:
            holder[key] = _value(rng)
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS)] = _value(rng)
        else:
            holder *= 3
        if not described:
            break
    return json.dumps(described).encode()


def _places(value: Any):
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, (dict, list)):
            yield from _places(part)


def _value(rng: random.Random) -> Any:
    deep: Any = 1
    for _ in range(rng.choice((5, 150, 400))):
        deep = rng.choice(([deep], {"a": deep}))
    number = rng.choice((-1, 1)) * rng.choice(INTEGERS)
    return rng.choice((None, True, number, 10**40, rng.choice(FLOATS), rng.choice(WORDS), [], {}, deep))


def mutate_toml(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change a line of a TOML text: its key, its value, or what surrounds them; or its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content, other)
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        key, _, value = lines[at].partition("=")
        values = (_toml_value(rng), rng.choice(other.decode().splitlines()).partition("=")[2])
        lines[at] = rng.choice(
            (f"{key}={rng.choice(values)}", f"{rng.choice(WORDS)}={value}", f"[{key}]", f"a.{lines[at]}")
        )
        lines += rng.choice(([], [], [lines[at]], [f"[[{key}]]"], [f"{key.replace('-', '_')}={value}"]))
    return "\n".join(lines).encode()


def _toml_value(rng: random.Random) -> str:
    deep = rng.choice((5, 2000))
    nested = rng.choice(("[" * deep + "]" * deep, "{a=" * deep + "1" + "}" * deep, ".".join("a" * deep) + "=1"))
    number = str(rng.choice((-1, 1)) * rng.choice(INTEGERS))
    odd = ("true", "1979-05-27", "nan", "-inf", "1e999", "0x" + "f" * 5000, '"a\\u0000b"', "'''a\nb'''", "[]", "{}")
    return rng.choice((number, json.dumps(rng.choice(WORDS)), nested, *odd))


def mutate_protobuf(rng: random.Random, message: Any) -> None:
    """Change a field somewhere in a message of Protocol Buffers."""
    messages = [message]
    for found in messages:
        for field, value in found.ListFields():
            if field.message_type:
                messages.extend(value if field.is_repeated else [value])
    holder = rng.choice(messages)
    field = rng.choice(holder.DESCRIPTOR.fields)
    value = getattr(holder, field.name)
    if rng.random() < 0.2:
        holder.ClearField(field.name)
    elif field.message_type:
        if not field.is_repeated:
            value.SetInParent()
        elif len(value):
            rng.choice((value.pop, lambda: value.append(rng.choice(list(value)))))()
    elif field.is_repeated and rng.random() < 0.3 and len(value):
        value.extend(list(value) * rng.choice((1, 5)))
    else:
        new = _scalar(rng, field, messages)
        if not field.is_repeated:
            setattr(holder, field.name, new)
        elif len(value) and rng.random() < 0.8:
            value[rng.randrange(len(value))] = new
        else:
            value.append(new)


def _scalar(rng: random.Random, field: Any, messages: list) -> Any:
    """Return a value for a field; names are often those of something else in the message."""
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((*FLOATS, 0.5, 2.0))
    if field.enum_type:
        return rng.choice(list(field.enum_type.values_by_number))
    if field.cpp_type == field.CPPTYPE_STRING:
        names = [
            name for found in messages for name in (getattr(found, "name", ""), getattr(found, "op_type", "")) if name
        ]
        text = rng.choice((*names, "", "nonsense", "SAME_UPPER", "/etc/passwd"))
        return text.encode() if field.type == field.TYPE_BYTES else text
    bits = 31 if field.cpp_type == field.CPPTYPE_INT32 else 63
    return rng.choice(
        (-2, -1, 0, 1, 2, 3, 5, 7, 8, 10, 11, 12, 16, 100, 1000, 4096, 10**5, 10**9, 2**bits - 1, -(2**bits))
    )
