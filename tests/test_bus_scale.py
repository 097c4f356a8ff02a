"""100,000 doorbells: all of them work, and none costs more comparisons than a bisection."""

from __future__ import annotations

import random

import pytest

from pvmmio_uc.bus import Bus
from pvmmio_uc.device import DeviceRegion
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.ioeventfd import IoEventFd
from pvmmio_uc.vm import Vm

from .bus_model import BusModel, Range
from .doorbells import DATAMATCH, A, eventfd_fixture, vm_fixture

vm = vm_fixture()
kick = eventfd_fixture()

COUNT = 100_000
STRIDE = 16
BISECTION = 17  # COUNT < 2**17
REGIONS = ["no region", "region before", "region after"]

compared = 0


class Address(int):
    """A number that counts how often it is compared, whichever side it stands on."""

    __slots__ = ()
    __hash__ = int.__hash__

    def __lt__(self, other: int) -> bool:
        _count()
        return int.__lt__(self, other)

    def __gt__(self, other: int) -> bool:
        _count()
        return int.__gt__(self, other)

    def __eq__(self, other: object) -> bool:
        _count()
        return int.__eq__(self, other)


def _count() -> None:
    global compared
    compared += 1


class Swallow:
    """Takes everything."""

    def mmio_read(self, offset: int, size: int) -> int:
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Nothing to do."""


def addresses(count: int) -> list[int]:
    """So many distinct ones, shuffled, and the last thousand of them count."""
    made = [A + index * STRIDE for index in range(count)]
    random.Random(20130404).shuffle(made)
    return [*made[:-1000], *map(Address, made[-1000:])]


def expected_array(count: int, region: str) -> list[Range]:
    """What the kernel's insertion makes of ``count`` doorbells, in any order, and a region around them.

    A region that is there first stays in front of them, but for the one at its own start, which is
    shorter; one that comes last goes behind all.
    """
    array = [Range(A + index * STRIDE, 4, "doorbell") for index in range(count)]
    if region != "no region":
        array.insert(1 if region == "region before" else count, Range(A, count * STRIDE, "region"))
    return array


@pytest.mark.parametrize("region", REGIONS)
def test_the_expectation_is_the_kernels(region: str) -> None:
    model = BusModel()
    if region == "region before":
        model.register(A, 50 * STRIDE, "region")
    for address in addresses(50):
        model.register(address, 4, "doorbell")
    if region == "region after":
        model.register(A, 50 * STRIDE, "region")
    assert model.ranges == expected_array(50, region)


@pytest.mark.parametrize("region", REGIONS)
def test_distinct_addresses(vm: Vm, kick: EventFd, region: str) -> None:
    global compared
    around = [add_region(vm)] if region == "region before" else []
    shuffled = addresses(COUNT)
    for address in shuffled[:-1000]:
        vm.ioeventfds.assign(kick, address, 4)
    compared = 0
    for address in shuffled[-1000:]:
        vm.ioeventfds.assign(kick, address, 4)
    # a step of the bisection compares for equality and for order
    assert 1000 * BISECTION / 2 < compared < 1000 * (2 * BISECTION + 10)
    around += [add_region(vm)] if region == "region after" else []

    model = BusModel()
    model.ranges = expected_array(COUNT, region)
    assert [entry[:2] for entry in model.ranges] == [(device.addr, span(device)) for device in vm.mmio]
    lost = [address for address in shuffled if not rings(vm, address)]
    assert kick.wait(0) == COUNT - len(lost)
    assert lost == [address for address in lost if model.offered(address, 4)[0][0] == "region"]
    assert len(lost) <= 1
    for address in shuffled[:2000]:
        assert (
            vm.mmio.write(address, bytes(4)).comparisons == model.offered(address, 4)[1][0] <= BISECTION + 4
        )
    vm.close()
    assert list(vm.mmio) == around


def add_region(vm: Vm) -> DeviceRegion:
    region = DeviceRegion(vm.mmio, Swallow(), A, COUNT * STRIDE, lambda: "little")
    vm.mmio.register(region.addr, region.size, region)
    return region


def span(device: object) -> int:
    return device.length if isinstance(device, IoEventFd) else COUNT * STRIDE


def rings(vm: Vm, address: int) -> bool:
    device = vm.mmio.write(address, bytes(4)).device
    return isinstance(device, IoEventFd) and device.addr == address


@pytest.mark.parametrize("descending", [False, True])
def test_in_order(vm: Vm, kick: EventFd, descending: bool) -> None:
    global compared
    bus, doorbell = Bus("MMIO"), vm.ioeventfds.assign(kick, A, 4)
    ordered = sorted(addresses(COUNT), reverse=descending)
    compared = 0
    for address in ordered:
        bus.register(address, 4, doorbell, ioeventfd=True)
    assert (
        0 < compared < 1000 * 2 * (2 * BISECTION + 10)
    )  # each of the 1000 as the new one and as a neighbour
    for address in ordered[:: COUNT // 100]:
        assert bus.write(address, bytes(4)).comparisons <= BISECTION + 4


def test_a_lookup_is_the_bisection_and_is_remembered(vm: Vm, kick: EventFd) -> None:
    global compared
    bus, doorbell = Bus("MMIO"), vm.ioeventfds.assign(kick, A, 4)
    for index in range(COUNT):
        bus.register(A + index * STRIDE, 4, doorbell, ioeventfd=True)
    for index in range(0, COUNT, COUNT // 50):
        key = Address(A + index * STRIDE)
        compared = 0
        assert bus.find(key, 4).devices == (doorbell,)
        assert 0 < compared <= BISECTION + 4
        compared = 0
        bus.find(A + index * STRIDE, 4)
        assert compared <= 1  # with itself, as a key


def test_one_address(vm: Vm, kick: EventFd) -> None:
    """As in the kernel, what comes before in the array is asked before; the search itself is a bisection."""
    for value in range(COUNT):
        vm.ioeventfds.assign(kick, A, 4, DATAMATCH, value)
    middle = COUNT // 2
    for value in (0, middle, COUNT - 1):
        verdict = vm.mmio.write(A, value.to_bytes(4, "little"))
        assert isinstance(verdict.device, IoEventFd)
        assert verdict.device.datamatch == value
        assert verdict.comparisons == 1 + middle + value + 1
    assert vm.mmio.write(A, COUNT.to_bytes(4, "little")).device is None
    assert kick.wait(0) == 3
