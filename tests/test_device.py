"""A device model behind a region: offsets, values, byte order, and refusals."""

from __future__ import annotations

import pytest

from pvmmio_uc.bus import Bus
from pvmmio_uc.device import ByteOrder, Device, DeviceRegion
from pvmmio_uc.errors import AccessRefused
from pvmmio_uc.exits import Route


class Register:
    """One register that keeps what is written and refuses single bytes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, int]] = []
        self.value = 0

    def mmio_read(self, offset: int, size: int) -> int:
        self._check(offset, size)
        self.calls.append(("r", offset, size, self.value))
        return self.value

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self._check(offset, size)
        self.calls.append(("w", offset, size, value))
        self.value = value

    def _check(self, offset: int, size: int) -> None:
        if size == 1:
            raise AccessRefused(f"offset {offset:#x}: a register takes 2, 4 or 8 bytes, not {size}")


def region(device: Device, order: ByteOrder = "little", name: str = "") -> DeviceRegion:
    bus = Bus("MMIO")
    made = DeviceRegion(bus, device, 0x1000, 0x100, lambda: order, name)
    bus.register(made.addr, made.size, made)
    return made


@pytest.mark.parametrize(
    ("order", "value"), [("little", 0x04030201), ("big", 0x01020304)], ids=["little", "big"]
)
def test_the_device_gets_offset_size_and_value(order: ByteOrder, value: int) -> None:
    device = Register()
    made = region(device, order)
    assert made.bus.write(0x1010, b"\1\2\3\4").device is made
    assert made.bus.read(0x1010, 4).data == b"\1\2\3\4"
    assert device.calls == [("w", 0x10, 4, value), ("r", 0x10, 4, value)]
    assert made.route is Route.DEVICE


def test_the_byte_order_is_that_of_the_moment() -> None:
    orders: list[ByteOrder] = ["little"]
    device = Register()
    made = DeviceRegion(Bus("MMIO"), device, 0, 8, lambda: orders[0])
    made.write(0, b"\1\0")
    orders[0] = "big"
    made.write(0, b"\1\0")
    assert [value for *_, value in device.calls] == [1, 0x100]


@pytest.mark.parametrize(
    ("value", "size", "data"), [(-1, 2, b"\xff\xff"), (0x12345678, 2, b"\x78\x56"), (5, 4, b"\5\0\0\0")]
)
def test_a_value_is_cut_to_the_size(value: int, size: int, data: bytes) -> None:
    device = Register()
    device.value = value
    assert region(device).read(0x1000, size) == data


def test_a_refused_write_is_dropped_and_counted() -> None:
    device = Register()
    made = region(device)
    assert made.write(0x1004, b"\1") is True
    assert device.calls == []
    assert (made.refused, made.route) == (1, Route.ERROR)
    assert made.refusal == "offset 0x4: a register takes 2, 4 or 8 bytes, not 1"


def test_a_refused_read_is_filled_with_ones() -> None:
    made = region(Register())
    assert made.read(0x1000, 1) == b"\xff"
    assert (made.refused, made.route) == (1, Route.ERROR)


def test_the_route_is_that_of_the_last_access() -> None:
    made = region(Register())
    made.write(0x1000, b"\1")
    made.write(0x1000, b"\1\2")
    assert (made.refused, made.route) == (1, Route.DEVICE)
    made.read(0x1000, 1)
    made.read(0x1000, 2)
    assert (made.refused, made.route) == (2, Route.DEVICE)


def test_any_other_error_is_the_callers() -> None:
    class Broken(Register):
        def mmio_write(self, offset: int, size: int, value: int) -> None:
            raise LookupError("a bug in the model")

    with pytest.raises(LookupError, match="a bug in the model"):
        region(Broken()).bus.write(0x1000, b"\0\0")


@pytest.mark.parametrize(("addr", "size"), [(0xFFF, 4), (0x10FE, 4), (0x1100, 1)])
def test_an_access_that_sticks_out_is_not_the_devices(addr: int, size: int) -> None:
    device = Register()
    made = region(device)
    assert made.bus.write(addr, bytes(size)).device is None
    assert device.calls == []


def test_names() -> None:
    assert repr(region(Register())) == "<DeviceRegion Register 0x1000+0x100>"
    assert region(Register(), name="uart").name == "uart"


def test_the_protocol_can_be_asked() -> None:
    assert isinstance(Register(), Device)
    assert not isinstance(object(), Device)
