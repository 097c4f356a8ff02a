"""The stub library in every guest: by calls and by stores it does the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.assembler import assemble
from tests.arch.stub_guests import (
    CALLS,
    DEVICE_BYTES,
    HYPERCALL,
    KINDS,
    MMIO,
    NOT_LOOKED,
    SIZES,
    STORES,
    STUBS,
    VALUE,
    Guest,
    Kind,
    Registers,
    image_of,
)

BAD_SIZES = (0, 3, 5, 6, 7, 9, 16, 65, 255, 0x104, 0x8000_0004, 0xFFFF_FFFF)

LIBRARY_BYTES = {
    "x86-16": 813,
    "x86-32": 538,
    "x86-64": 452,
    "arm64-64": 708,
    "ppc-32-big": 928,
    "ppc-32-little": 952,
    "ppc-64-big": 820,
    "ppc-64-little": 820,
}

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(params=KINDS, ids=str)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(request.param)
    yield made
    made.machine.close()


@pytest.fixture(params=[True, False], ids=["calls", "stores"])
def by_calls(request: pytest.FixtureRequest, guest: Guest) -> bool:
    """Whether the host of ``guest`` offers the calls."""
    guest.offer(offered=request.param)
    return bool(request.param)


def test_every_architecture_has_the_same_names_in_the_same_order() -> None:
    names = [module.__all__ for module in STUBS.values()]
    assert names[0] == names[1] == names[2]
    constants = [(m.NOT_LOOKED, m.CALLS, m.STORES, m.STATE_BYTES) for m in STUBS.values()]
    assert constants == [(NOT_LOOKED, CALLS, STORES, 8)] * 3


@pytest.mark.parametrize("size", SIZES)
def test_a_write_has_the_size_and_the_bytes_that_the_device_expects(
    guest: Guest, by_calls: bool, size: int
) -> None:
    assert guest.write(guest.device + 8, size, VALUE) == 0
    assert guest.image(guest.device, 24) == bytes(8) + image_of(VALUE, size).ljust(16, b"\0")
    accesses = guest.pv.exits[-1].accesses
    assert [access.size for access in accesses] == [size // (1 if by_calls else guest.stores(size))]
    assert guest.pv.exits[-1].reason is (HYPERCALL if by_calls else MMIO)


@pytest.mark.parametrize("size", SIZES)
def test_a_read_gives_the_number_with_zeroes_above(guest: Guest, by_calls: bool, size: int) -> None:
    guest.registers.data[8:24] = VALUE.to_bytes(8, "little") * 2
    assert guest.read(guest.device + 8, size) == (0, VALUE & ((1 << 8 * size) - 1))
    assert guest.pv.exits[-1].reason is (HYPERCALL if by_calls else MMIO)


def test_a_list_of_every_size_is_one_call_or_so_many_stores(guest: Guest, by_calls: bool) -> None:
    elements = [(guest.device + 16 * at, VALUE - at, size) for at, size in enumerate(SIZES * 3)]
    guest.write(guest.device, 1, 0)
    guest.reasons()
    assert guest.write_list(elements) == len(elements)
    for gpa, value, size in elements:
        assert guest.image(gpa, 16) == image_of(value, size).ljust(16, b"\0")
    stores = sum(guest.stores(size) for _, _, size in elements)
    assert guest.reasons() == ([HYPERCALL] if by_calls else [MMIO] * stores)


def test_a_full_page_of_elements_and_none_at_all(guest: Guest, by_calls: bool) -> None:
    elements = [(guest.device + at, at, 1) for at in range(170)]
    assert guest.write_list(elements) == 170
    assert guest.image(guest.device, 170) == bytes(range(170))
    assert guest.run_list(guest.list_page, 0) == 0


@pytest.mark.parametrize(("offset", "count"), [(8, 1), (8, 170), (16, 170), (4072, 1), (4080, 0)])
def test_a_list_may_be_anywhere_in_its_page(guest: Guest, by_calls: bool, offset: int, count: int) -> None:
    elements = [(guest.device + at, at + 1, 1) for at in range(count)]
    assert guest.write_list(elements, guest.list_page + offset) == count
    assert guest.image(guest.device, count + 1) == bytes((*(at + 1 for at in range(count)), 0))


@pytest.mark.parametrize(
    ("offset", "count"), [(0, 171), (0, 0xFFFF_FFFF), (4, 1), (4080, 1), (24, 170), (0, 0x0AAA_AAAB)]
)
def test_a_list_that_no_host_takes_is_not_begun(
    guest: Guest, by_calls: bool, offset: int, count: int
) -> None:
    guest.write_list([(guest.device, 1, 1), (guest.device, 1, 1)], guest.list_page + offset)
    guest.registers.data[:] = bytes(DEVICE_BYTES)
    assert guest.run_list(guest.list_page + offset, count) == 0
    assert not any(guest.registers.data)


@pytest.mark.parametrize("bad", ["size", "alignment", "flags"])
def test_a_list_ends_at_the_element_that_is_refused(guest: Guest, by_calls: bool, bad: str) -> None:
    wrong = {
        "size": (guest.device, 1, 3),
        "alignment": (guest.device + 2, 1, 4),
        "flags": (guest.device, 1, 4, 1),
    }
    elements: list[tuple[int, ...]] = [(guest.device + 0x10 * at, at + 1, 2) for at in range(4)]
    elements[2] = wrong[bad]
    assert guest.write_list(elements) == 2
    assert [guest.image(guest.device + 0x10 * at, 1)[0] for at in range(4)] == [1, 2, 0, 0]


@pytest.mark.parametrize("size", BAD_SIZES)
def test_a_size_that_is_none_is_refused_either_way(guest: Guest, by_calls: bool, size: int) -> None:
    for gpa in (guest.device, 0):
        assert guest.write(gpa, size, VALUE) == guest.statuses.invalid
        assert guest.read(gpa, size) == (guest.statuses.invalid, 0)
    assert not any(guest.registers.data)
    assert MMIO not in guest.reasons()
    assert guest.found == (CALLS if by_calls else STORES)


@pytest.mark.parametrize(("size", "off"), [(2, 1), (4, 2), (4, 1), (8, 4)])
def test_an_address_must_be_a_multiple_of_the_size(guest: Guest, by_calls: bool, size: int, off: int) -> None:
    assert guest.write(guest.device + off, size, VALUE) == guest.statuses.invalid
    assert guest.read(guest.device + off, size) == (guest.statuses.invalid, 0)
    assert not any(guest.registers.data)


def test_what_a_call_says_of_an_address_and_a_store_cannot(guest: Guest, by_calls: bool) -> None:
    nowhere = guest.device + 2 * DEVICE_BYTES
    expected = guest.statuses.nobody if by_calls else 0
    assert guest.write(nowhere, 4, VALUE) == expected
    assert guest.read(nowhere, 4) == (expected, 0xFFFF_FFFF)
    assert guest.write_list([(guest.device, 1, 1), (nowhere, 1, 4), (guest.device, 2, 1)]) == (
        1 if by_calls else 3
    )
    if by_calls:
        assert guest.write(guest.list_page, 4, VALUE) == guest.statuses.invalid


def test_an_address_beyond_what_the_code_can_reach_takes_a_call(guest: Guest, by_calls: bool) -> None:
    if guest.bits == 64:
        pytest.skip("64-bit code reaches every address")
    far = 0x0012_3456_7000
    device = Registers()
    guest.pv.device(far, DEVICE_BYTES, device, order="little")
    assert guest.write(far + 8, 4, VALUE) == (0 if by_calls else guest.statuses.beyond)
    assert bytes(device.data[8:12]) == (image_of(VALUE, 4) if by_calls else bytes(4))
    expected = (0, VALUE & 0xFFFF_FFFF) if by_calls else (guest.statuses.beyond, 0)
    assert guest.read(far + 8, 4) == expected
    assert guest.write_list([(far, 7, 1)]) == (1 if by_calls else 0)
    high_list = 1 << 32 | guest.list_page
    assert guest.run_list(high_list, 1) == 0
    if guest.arch == "x86":  # a call takes 56 bits
        expected_status = guest.statuses.invalid if by_calls else guest.statuses.beyond
        assert guest.write(1 << 56 | guest.device, 4, VALUE) == expected_status


def test_real_mode_stores_below_one_megabyte() -> None:
    guest = Guest(Kind("x86", Variant(16, False, "little")))
    guest.offer(offered=False)
    assert guest.write_list([(guest.device, 1, 1)]) == 1
    assert guest.write(0x10_0000, 4, VALUE) == guest.write(0xFFFF_0000, 4, VALUE) == guest.statuses.beyond
    guest.machine.uc.mem_write(0, bytes(guest.machine.uc.mem_read(guest.list_page, 24)))
    assert guest.run_list(0x10_0000, 1) == 0


@pytest.mark.parametrize("by_calls", [True, False], ids=["calls", "stores"])
@each_kind
def test_nothing_else_in_memory_changes(kind: Kind, by_calls: bool) -> None:
    guest = Guest(kind)
    guest.offer(offered=by_calls)
    first = guest.stack & ~0xFFFF
    before = bytearray(guest.machine.uc.mem_read(first, 0xC000))
    guest.write(guest.device, 4, VALUE)
    guest.read(guest.device, 4)
    guest.run_list(guest.list_page, 0)
    after = bytearray(guest.machine.uc.mem_read(first, 0xC000))
    # On ppc a function saves its return address in its caller's frame.
    for at, size in ((guest.state, 4), (guest.value_at, 8), (guest.stack - 0x200, 0x220)):
        before[at - first : at - first + size] = after[at - first : at - first + size]
    assert before == after


@pytest.mark.parametrize("name", LIBRARY_BYTES)
def test_how_many_bytes_a_guest_carries(name: str) -> None:
    kind = next(kind for kind in KINDS if str(kind) == name)
    guest = Guest(kind)
    dialect = guest.machine.platform.dialect
    codes = {assemble(dialect, guest.library, address) for address in (0x1000, 0x1234_5000)}
    assert [len(code) for code in codes] == [LIBRARY_BYTES[name]]  # one: it runs at any address


@each_kind
def test_what_the_library_cannot_be_made_for_is_said(kind: Kind) -> None:
    make = STUBS[kind.arch].guest_library
    with pytest.raises(ValueError, match=f"{kind.arch} has no"):
        make(dataclasses.replace(kind.variant, bits=128), state=0x8000)
    with pytest.raises(ValueError, match="conduit='int3'"):
        make(kind.variant, state=0x8000, conduit="int3")
    bits = 20 if kind.variant.bits == 16 else kind.variant.bits
    for state in (0x8004, 0x8001, -8, 1 << bits):
        with pytest.raises(ValueError, match=f"state={state:#x}: .* below {1 << bits:#x}"):
            make(kind.variant, state=state)
    for state in (0, (1 << bits) - 8):
        assert assemble(Guest(kind).machine.platform.dialect, make(kind.variant, state=state))


# Random lists: whatever is in them, calls and stores agree.


@cache
def guest_by(kind: Kind, calls: bool) -> Guest:
    guest = Guest(kind)
    guest.offer(offered=calls)
    return guest


element = st.tuples(
    st.integers(0, 0x100),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(SIZES) | st.integers(0, 0xFFFF_FFFF),
    st.just(0) | st.sampled_from((0, 1, 0x8000_0000)),
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.variant.paging], ids=str)
@settings(max_examples=60, deadline=None)
@given(
    elements=st.lists(element, max_size=20),
    offset=st.integers(0, 0x1000) | st.integers(0, 0x200).map(lambda n: 8 * n),
)
def test_calls_and_stores_agree_on_every_list(
    kind: Kind, elements: list[tuple[int, int, int, int]], offset: int
) -> None:
    results = []
    for calls in (True, False):
        guest = guest_by(kind, calls)
        guest.registers.data[:] = bytes(DEVICE_BYTES)
        here = [(guest.device + 8 * at if at < 0x80 else guest.device + at, *rest) for at, *rest in elements]
        done = guest.write_list(here, guest.list_page + offset)
        results.append((done, bytes(guest.registers.data)))
    assert results[0] == results[1]
    good = list(itertools.takewhile(lambda e: e[2] in SIZES and not e[3], elements))
    assert results[0][0] <= len(good)
