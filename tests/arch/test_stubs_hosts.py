"""How the stub library finds the interface, remembers, and notices that it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.arch.stub_guests import (
    CALLS,
    HYPERCALL,
    KINDS,
    MMIO,
    NOT_LOOKED,
    SIZES,
    STORES,
    VALUE,
    Guest,
    image_of,
)

LOOKING = {"x86": 0, "arm64": 3, "ppc": 1}
"""How many calls it takes to look for the interface; CPUID is not one."""


each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(params=KINDS, ids=str)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(request.param)
    yield made
    made.machine.close()


def test_it_looks_once_and_remembers(guest: Guest) -> None:
    guest.offer()
    assert guest.found == NOT_LOOKED
    looking = LOOKING[guest.arch]
    for calls in (looking + 1, 1, 1):
        assert guest.write(guest.device, 4, VALUE) == 0
        assert guest.found == CALLS
        assert guest.reasons() == [HYPERCALL] * calls


def test_a_host_that_does_not_offer_the_calls_does_not_see_them(guest: Guest) -> None:
    guest.offer(offered=False)
    assert guest.write(guest.device, 4, VALUE) == 0
    assert guest.found == STORES
    assert guest.reasons() == [*[HYPERCALL] * LOOKING[guest.arch], MMIO]


@pytest.mark.parametrize("offered", [True, False], ids=["calls", "stores"])
@pytest.mark.parametrize("first", ["write", "read", "write_list"])
def test_every_function_looks_when_it_is_the_first(guest: Guest, offered: bool, first: str) -> None:
    guest.offer(offered=offered)
    guest.registers.data[0] = 7
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: guest.write(guest.device, 1, 7),
        "read": lambda: guest.read(guest.device, 1)[1] - 7,
        "write_list": lambda: guest.write_list([(guest.device, 7, 1)]) - 1,
    }
    assert steps[first]() == 0
    assert guest.found == (CALLS if offered else STORES)
    assert guest.reasons()[-1] is (HYPERCALL if offered else MMIO)


def test_without_any_convention_it_stores(guest: Guest) -> None:
    guest.present(False)
    assert guest.write(guest.device, 8, VALUE) == 0
    assert guest.read(guest.device, 8) == (0, VALUE)
    assert guest.found == STORES
    assert set(guest.reasons()) == {MMIO}


def test_what_the_boot_code_did_not_see_is_not_called(guest: Guest) -> None:
    guest.offer()
    guest.present(False)
    guest.write(guest.device, 4, VALUE)
    assert guest.found == (CALLS if guest.arch == "x86" else STORES)
    assert guest.reasons() == [HYPERCALL if guest.arch == "x86" else MMIO]


def test_a_host_that_begins_to_offer_is_found_when_told_to_look_again(guest: Guest) -> None:
    guest.offer(offered=False)
    guest.write(guest.device, 4, VALUE)
    guest.offer()
    guest.reasons()
    guest.write(guest.device, 4, VALUE)
    assert (guest.found, guest.reasons()) == (STORES, [MMIO])
    guest.found = NOT_LOOKED
    guest.write(guest.device, 4, VALUE)
    assert (guest.found, guest.reasons()) == (CALLS, [HYPERCALL] * (LOOKING[guest.arch] + 1))


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_is_suddenly_unknown_is_stored(guest: Guest, size: int) -> None:
    guest.offer()
    guest.write(guest.device + 0x10, 1, 0)
    guest.offer(offered=False)
    guest.reasons()
    assert guest.write(guest.device + 8, size, VALUE) == 0
    assert guest.image(guest.device, 24) == bytes(8) + image_of(VALUE, size).ljust(16, b"\0")
    stores = [MMIO] * guest.stores(size)
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *stores])
    assert guest.write(guest.device + 8, size, 0) == 0
    assert guest.reasons() == stores


@pytest.mark.parametrize("size", SIZES)
def test_a_read_that_is_suddenly_unknown_is_loaded(guest: Guest, size: int) -> None:
    guest.registers.data[8:24] = VALUE.to_bytes(8, "little") * 2
    guest.offer()
    guest.read(guest.device, 1)
    guest.offer(offered=False)
    guest.reasons()
    assert guest.read(guest.device + 8, size) == (0, VALUE & ((1 << 8 * size) - 1))
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *[MMIO] * guest.stores(size)])


def test_a_list_that_is_suddenly_unknown_is_stored(guest: Guest) -> None:
    elements = [(guest.device + at, at + 1, 1) for at in range(5)]
    guest.offer()
    guest.write_list(elements[:1])
    guest.offer(offered=False)
    guest.reasons()
    assert guest.write_list(elements) == 5
    assert guest.image(guest.device, 6) == bytes((1, 2, 3, 4, 5, 0))
    assert (guest.found, guest.reasons()) == (STORES, [HYPERCALL, *[MMIO] * 5])
