"""Loading: every way in which a file is not one says which file, which line, and what is wrong."""

from __future__ import annotations

import copy
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pvmmio_uc.errors import ScenarioError
from pvmmio_uc.replay.scenario import find_files, load
from pvmmio_uc.replay.steps import IoEventFdCall, RawCall, VmOptions

from .recorded import DATA, A, Json, io, line, raw, recorded, store

GOOD = raw(io(), store(A, "01000000", e0=1))


def written(folder: Path, content: bytes, name: str = "s.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path: Path, number: int | None, what: str) -> None:
    where = str(path) if number is None else f"{path}:{number}: "
    with pytest.raises(ScenarioError, match=re.escape(where) + f".*{what}"):
        load(path)


def test_the_recorded_files() -> None:
    assert len(recorded("open")) == 1200
    assert len(recorded("named")) == 226
    assert sum(len(scenario.steps) for scenario in recorded("open")) == 27499
    assert sum(len(scenario.steps) for scenario in recorded("named")) == 1072


def test_plain_and_compressed_are_the_same(tmp_path: Path) -> None:
    content = line(GOOD) * 3
    plain = load(written(tmp_path, content))
    assert plain == load(written(tmp_path, gzip.compress(content), "s.jsonl.gz"))
    assert len(plain) == 3


def test_integers_are_exact(tmp_path: Path) -> None:
    for value in ((1 << 64) - 1, (1 << 53) + 1):
        scenario = raw(({"o": "io", "a": value, "l": 4, "f": 1, "d": value, "e": 0}, {"rc": -22}))
        (loaded,) = load(written(tmp_path, line(scenario)))
        assert loaded.steps == (IoEventFdCall(value, 4, 1, 0, value),)


def test_absent_is_empty(tmp_path: Path) -> None:
    step = {"o": "x", "k": "", "c": "", "r": {}}
    (loaded,) = load(written(tmp_path, line(raw((step, {"end": "hlt"})))))
    assert loaded.recorded == ({"end": "hlt", "ex": [], "ev": {}, "rg": {}, "ram": []},)
    assert loaded.vm == VmOptions(irqchip=False, pit=False, rom=False)


def test_other_keys_of_a_scenario_are_for_people(tmp_path: Path) -> None:
    assert len(load(written(tmp_path, line({**GOOD, "note": "n", "seed": 1, "more": [None]})))) == 1


def test_raw_calls(tmp_path: Path) -> None:
    null = {"o": "raw", "on": "vm", "req": 5, "ptr": "null"}
    call = {"o": "raw", "on": "vcpu", "req": 5, "a": 1, "l": 2, "f": 3, "e": "neg"}
    (loaded,) = load(written(tmp_path, line(raw((null, {"rc": -14}), (call, {"rc": -22})))))
    assert loaded.steps == (RawCall("vm", 5, None), RawCall("vcpu", 5, IoEventFdCall(1, 2, 3, "neg")))


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "none.jsonl", None, "cannot be read: No such file")

    def test_empty(self, tmp_path: Path) -> None:
        refused(written(tmp_path, b"\n\n"), None, "no scenario in this file")

    def test_not_gzip(self, tmp_path: Path) -> None:
        refused(written(tmp_path, line(GOOD), "s.jsonl.gz"), 1, "not gzip data.*remove .gz from its name")

    def test_truncated_gzip(self, tmp_path: Path) -> None:
        whole = (DATA / "open.jsonl.gz").read_bytes()
        path = written(tmp_path, whole[: len(whole) // 2], "s.jsonl.gz")
        with pytest.raises(ScenarioError, match="the file was cut off") as error:
            load(path)
        found = re.match(re.escape(str(path)) + r":(\d+): ", str(error.value))
        assert found
        assert 300 < int(found[1]) < 900

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        whole = bytearray((DATA / "named.jsonl.gz").read_bytes())
        whole[len(whole) // 2 : len(whole) // 2 + 64] = b"\xff" * 64
        with pytest.raises(ScenarioError, match=r"damaged|not JSON|not UTF-8"):
            load(written(tmp_path, bytes(whole), "s.jsonl.gz"))

    def test_wrong_checksum(self, tmp_path: Path) -> None:
        whole = bytearray(gzip.compress(line(GOOD)))
        whole[-8] ^= 1
        refused(written(tmp_path, bytes(whole), "s.jsonl.gz"), 2, "not gzip data, or damaged")

    def test_gzip_without_its_name(self, tmp_path: Path) -> None:
        refused(written(tmp_path, gzip.compress(line(GOOD))), 1, "not UTF-8: byte 0x8b at column 2")

    def test_a_directory(self, tmp_path: Path) -> None:
        refused(tmp_path, None, "cannot be read: Is a directory")


class TestFinding:
    def test_a_directory_is_its_files(self, tmp_path: Path) -> None:
        for name in ("b.jsonl", "a.jsonl.gz", "notes.md", "c.gz"):
            written(tmp_path, b"", name)
        assert find_files(tmp_path) == [str(tmp_path / "a.jsonl.gz"), str(tmp_path / "b.jsonl")]

    def test_a_pattern(self, tmp_path: Path) -> None:
        for name in ("b.jsonl", "a.jsonl", "other"):
            written(tmp_path, b"", name)
        assert find_files(f"{tmp_path}/*.jsonl") == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]

    def test_a_name_that_looks_like_a_pattern(self, tmp_path: Path) -> None:
        path = written(tmp_path, b"", "s[1].jsonl")
        assert find_files(path) == [str(path)]

    @pytest.mark.parametrize("name", ["none.jsonl", "*.jsonl", ""])
    def test_nothing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ScenarioError, match=r"there is no such file|no \*\.jsonl"):
            find_files(f"{tmp_path}/{name}")


LINES: list[tuple[bytes, str]] = [
    (b"{", "not JSON: .* at column 2"),
    (b"[]", "an object is needed"),
    (b'{"id": "x"} trailing', "not JSON: Extra data"),
    (b'{"id": NaN}', "NaN is not a number"),
    (b'{"id": "\xff"}', "not UTF-8: byte 0xff"),
    (b'{"id": "a", "id": "b"}', "the key 'id' is there twice"),
    (b"[" * 100_000, "nested too deeply|not JSON"),
    (b'{"id": ' + b"9" * 10_000 + b"}", "not a scenario|integer"),
]


@pytest.mark.parametrize(("content", "what"), LINES, ids=[what for _, what in LINES])
def test_lines_that_are_no_scenario(tmp_path: Path, content: bytes, what: str) -> None:
    refused(written(tmp_path, line(GOOD) + b"\n" + content + b"\n" + line(GOOD)), 3, what)


def changed(scenario: Json, path: tuple[str | int, ...], value: object) -> Json:
    """A copy with one value replaced; ``...`` removes it."""
    copied = copy.deepcopy(scenario)
    target: Any = copied
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copied


EVERYTHING = raw(
    io(),
    ({"o": "many", "a": A, "n": 2, "st": 8, "l": 4, "f": 0, "e": 1}, {"rc": 0, "at": 2}),
    ({"o": "cz", "a": A, "n": 8}, {"rc": 0}),
    ({"o": "ring"}, {"ring": [[0, A, 4, "01000000"]]}),
    ({"o": "sig", "e": 0, "v": 1}, {"rc": 0}),
    (
        {"o": "x", "k": "m", "c": "90", "r": {"rax": 1}, "tx": [["w", A, 1, "01"], ["i", 0x50, 1, 2]]},
        {
            "end": "hlt",
            "ex": [["I", 0x50, 1, 2, "6a6b"], ["V", {"0": 1}]],
            "ev": {"0": 1},
            "ram": [[65536, "00"]],
        },
    ),
    ({"o": "raw", "on": "vm", "req": 5, "ptr": "null"}, {"rc": -14}),
    vm={"rom": True},
)
X, OUT = ("steps", 5), ("out", 5)
WRONG: list[tuple[tuple[str | int, ...], object, str]] = [
    (("id",), ..., "'id' is missing"),
    (("steps",), ..., "'steps' is missing"),
    (("out",), ..., "'out' is missing"),
    (("id",), 5, "'id': a string that is not empty is needed, not 0x5"),
    (("steps",), {}, "'steps': a list is needed"),
    (("out", 6), ..., "there are 7 steps and 6 results"),
    (("vm", "rom"), 1, "'vm': 'rom': 0x1 is not one of True, False"),
    (("vm", "apic"), True, "'vm': 'apic' is unknown"),
    (("steps", 0), 7, "'steps': element 0: an object is needed"),
    (("steps", 0, "o"), ..., "element 0: 'o' is missing"),
    (("steps", 0, "o"), "iq", "element 0: unknown kind 'iq': known are io, many"),
    (("steps", 0, "o"), ["io"], "unknown kind"),
    (("steps", 0, "a"), ..., "element 0: io: 'a' is missing"),
    (("steps", 0, "a"), -1, "'a': -0x1 is not in 0x0..0xffffffffffffffff"),
    (("steps", 0, "a"), 1 << 64, "'a': 0x10000000000000000 is not in"),
    (("steps", 0, "a"), 16777216.0, "'a': an integer is needed, not 16777216.0"),
    (("steps", 0, "a"), True, "'a': an integer is needed, not True"),
    (("steps", 0, "a"), "16777216", "'a': an integer is needed, not '16777216'"),
    (("steps", 0, "a"), None, "'a': an integer is needed, not None"),
    (("steps", 0, "l"), 1 << 32, "'l': 0x100000000 is not in"),
    (("steps", 0, "e"), "nul", "'e': 'nul' is not one of 'null', 'vm'"),
    (("steps", 0, "e"), -1, "'e': -0x1 is not in"),
    (("steps", 0, "x"), 1, "'x' is unknown: known are 'a', 'l', 'f', 'd', 'e'"),
    (("steps", 1, "n"), -1, "element 1: many: 'n'"),
    (("steps", 2, "u"), 2, "element 2: cz: 'u'"),
    (("steps", 3, "e"), 0, "element 3: ring: 'e' is unknown"),
    (("steps", 4, "e"), "null", "element 4: sig: 'e': an integer is needed"),
    (("steps", 6, "on"), "cpu", "element 6: raw: 'on'"),
    (("steps", 6, "ptr"), 0, "element 6: raw: 'ptr'"),
    ((*X, "k"), 5, "'k': a string is needed"),
    ((*X, "c"), "9", "'c': whole bytes in lower-case hex are needed, not '9'"),
    ((*X, "c"), "9G", "'c': whole bytes"),
    ((*X, "c"), "AA", "'c': whole bytes in lower-case hex"),
    ((*X, "r", "rax"), -1, "'r': 'rax': -0x1"),
    ((*X, "r"), [], "'r': an object is needed"),
    ((*X, "tx", 0, 0), "q", "'tx': element 0: a list that begins with one of w, r, o, i"),
    ((*X, "tx", 0, 2), 2, "'tx': element 0: the size is 0x2 and there are 0x1 bytes"),
    ((*X, "tx", 0, 3), ..., r"element 0: \[address, size, data\] is needed"),
    ((*X, "tx", 1, 2), 3, "element 1: size: 0x3 is not one of 1, 2, 4"),
    (("out", 0, "rc"), ..., "'out': element 0: io: 'rc' is missing"),
    (("out", 0, "rc"), 1, "'rc': 0x1 is not in"),
    (("out", 0, "at"), 1, "'at' is unknown"),
    (("out", 1, "at"), ..., "element 1: many: 'at' is missing"),
    (("out", 3, "ring", 0, 0), 2, "'ring': element 0: pio: 0x2"),
    ((*OUT, "end"), ..., "'end' is missing"),
    ((*OUT, "end"), "halt", "'end': hlt, hang, exc<v> or internal<n> is needed, not 'halt'"),
    ((*OUT, "ex", 0, 3), 3, "'ex': element 0: the size is 0x3 and there are 0x2 bytes"),
    ((*OUT, "ex", 1, 1), {"x": 1}, "element 1: events: an eventfd id is needed, not 'x'"),
    ((*OUT, "ev", "0"), 0, "'ev': '0': 0x0 is not in 0x1"),
    ((*OUT, "ram", 0, 1), "0", "'ram': element 0: data: whole bytes"),
]


def test_everything_is_a_scenario(tmp_path: Path) -> None:
    (loaded,) = load(written(tmp_path, line(EVERYTHING)))
    assert len(loaded.steps) == 7


@pytest.mark.parametrize(("path", "value", "what"), WRONG, ids=[what[:50] for *_, what in WRONG])
def test_one_wrong_value(tmp_path: Path, path: tuple[str | int, ...], value: object, what: str) -> None:
    content = line(GOOD) + line(changed(EVERYTHING, path, value))
    refused(written(tmp_path, content), 2, what)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("oabe") | st.text(), inner),
    max_leaves=10,
)
PATHS = st.sampled_from([path for path, *_ in WRONG])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PATHS, JSON)
def test_any_value_anywhere_loads_or_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    file = written(tmp_path, json.dumps(changed(EVERYTHING, path, value)).encode())
    try:
        load(file)
    except ScenarioError as error:
        refusal = str(error)
    else:
        return
    assert refusal.startswith(f"{file}:1: ")
