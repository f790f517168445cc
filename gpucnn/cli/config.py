"""A run in a file: `gpucnn train --config run.toml` reads the options of the command line from TOML."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpucnn.errors import InputError, unknown_name

__all__ = ["MAX_BYTES", "arguments_in"]

MAX_BYTES = 1 << 16  # many times what all options take; TOML's parser is slow on long nonsense


def arguments_in(path: Path, options: Mapping[str, argparse.Action]) -> Iterator[str]:
    """Yield the arguments that a file stands for, `--batch-size=32` for `batch-size = 32` or `batch_size = 32`.

    Parameters
    ----------
    path : of a TOML file without tables: a boolean for an option that takes no value, text or a number for others
    options : the options that it may name, by name with dashes
    """
    seen = set()
    for key, value in _read(path).items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            raise InputError(
                f"{path}: {key}: expected an option, received a table; put all options at the top of the file"
            )
        if name not in options:
            raise InputError(f"{path}: {unknown_name('key', key, options)}")
        if name in seen:
            raise InputError(f"{path}: {key}: appears twice, with a dash and with an underscore; remove one")
        seen.add(name)
        yield from _arguments(f"{path}: {key}", options[name], value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        state = "is not a file" if path.exists() else "does not exist"
        raise InputError(f"--config {path}: {state}; name a TOML file with options, such as: epochs = 3")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: expected options in at most {MAX_BYTES:,} bytes, received more; shorten it")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"{path}: expected TOML in UTF-8, such as: epochs = 3 ({error}); mend that line") from error


def _arguments(where: str, option: argparse.Action, value: Any) -> list[str]:
    """Return the arguments for one key."""
    takes_text = option.type in (None, Path)
    if option.nargs == 0:
        expected, fits = "true or false", isinstance(value, bool)
    elif takes_text:
        expected, fits = "text in quotes", isinstance(value, str) and "\0" not in value
    else:
        expected, fits = "a number", type(value) in (int, float) or value == "auto"
    if not fits:
        raise InputError(f"{where}: expected {expected}, received {_shown(value)}")
    if option.nargs == 0:
        return [option.option_strings[0 if value else -1]]
    return [f"{option.option_strings[0]}={value if isinstance(value, str) else _shown(value)}"]


def _shown(value: Any) -> str:
    """Return a value as text; a whole number too long to be written in decimals as what it is."""
    if isinstance(value, list):
        return "a list"
    if type(value) is int and value.bit_length() > 1024:
        return "a number of more than 300 digits"
    return str(value) if isinstance(value, (int, float)) else repr(value)
