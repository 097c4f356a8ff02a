"""Loading scenario files: every complaint is a ScenarioError with the file, the line, and what is wrong."""

from __future__ import annotations

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NoReturn, cast

from ..errors import ScenarioError
from .checks import Wrong
from .schema import parse_scenario
from .steps import Scenario

__all__ = ["find_files", "load"]

_SUFFIXES = (".jsonl", ".jsonl.gz")


def find_files(path: str | os.PathLike[str]) -> list[str]:
    """The scenario files that ``path`` means: itself, those of a directory, or those a pattern matches.

    Of a directory it is every ``*.jsonl`` and ``*.jsonl.gz`` in it, in the order of their names.
    Raises ScenarioError where there is none.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        found = sorted(entry for entry in os.listdir(name) if entry.endswith(_SUFFIXES))
        if not found:
            raise ScenarioError(f"{name}: no *.jsonl and no *.jsonl.gz in this directory")
        return [os.path.join(name, entry) for entry in found]
    if os.path.lexists(name):
        return [name]
    matches = sorted(match for match in glob.glob(name) if os.path.isfile(match))
    if not matches:
        raise ScenarioError(f"{name}: there is no such file, and nothing matches it as a pattern")
    return matches


def load(path: str | os.PathLike[str]) -> list[Scenario]:
    """Every scenario of a file, which is decompressed where its name ends in ``.gz``.

    Raises ScenarioError for a file that cannot be read to its end and for the first line that is
    not a scenario.
    """
    name = os.fspath(path)
    scenarios = [_parse(name, number, line) for number, line in _lines(name) if line.strip()]
    if not scenarios:
        raise ScenarioError(f"{name}: no scenario in this file")
    return scenarios


def _lines(name: str) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers, from 1."""
    number = 0
    try:
        with _open(name) as stream:
            for number, line in enumerate(stream, 1):
                yield number, line
    except gzip.BadGzipFile as error:
        _fail(
            name,
            number + 1,
            f"not gzip data, or damaged ({error}): remove .gz from its name if it is plain text",
        )
    except EOFError:
        _fail(name, number + 1, "the gzip data ends in the middle: the file was cut off")
    except zlib.error as error:
        _fail(name, number + 1, f"damaged gzip data ({error})")
    except OSError as error:
        raise ScenarioError(f"{name}: cannot be read: {error.strerror or error}") from None


def _open(name: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(name, "rb")) if name.endswith(".gz") else open(name, "rb")


def _parse(name: str, number: int, line: bytes) -> Scenario:
    try:
        return parse_scenario(_decode(line.rstrip()))
    except Wrong as wrong:
        _fail(name, number, str(wrong))


def _decode(line: bytes) -> object:
    try:
        return json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Wrong(f"not UTF-8: byte {error.object[error.start]:#04x} at column {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise Wrong(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise Wrong("not a scenario: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise Wrong(f"not a scenario: {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise Wrong(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Wrong(f"not JSON: {name} is not a number")


def _fail(name: str, number: int, what: str) -> NoReturn:
    raise ScenarioError(f"{name}:{number}: {what}")
