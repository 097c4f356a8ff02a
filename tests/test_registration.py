"""Registering on a guest: KVM's errnos, the handle, and the warning about what never fires."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pvmmio_uc import EventFd, NeverFires, PvMmioError, Registration, RegistrationError
from pvmmio_uc.ioeventfd import IoEventFdFlag
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import Guest, Registers, routes

U64 = (1 << 64) - 1


@pytest.fixture
def plain(make_guest: MakeGuest, arch: str) -> Guest:
    """One guest of each architecture."""
    return make_guest(arch)


@pytest.fixture
def sock() -> Iterator[int]:
    """A descriptor that is no eventfd."""
    with socket.socket() as open_socket:
        yield open_socket.fileno()


@contextmanager
def refused(code: int) -> Iterator[None]:
    """What is inside raises a RegistrationError with this errno."""
    with pytest.raises(RegistrationError) as caught:
        yield
    assert caught.value.errno == code


class TestErrnos:
    @pytest.mark.parametrize("length", [3, 5, 6, 7, 9, 16, -1, 1 << 32])
    def test_lengths(self, plain: Guest, bell: EventFd, length: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(bell, plain.mmio, length)

    @pytest.mark.parametrize(("address", "length"), [(U64, 1), (U64 - 7, 8), (U64 + 1, 0), (-1, 4)])
    def test_ranges(self, plain: Guest, bell: EventFd, address: int, length: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(bell, address, length)

    def test_any_length_with_datamatch(self, plain: Guest, bell: EventFd) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(bell, plain.mmio, 0, 1)

    @pytest.mark.parametrize("value", [-1, 1 << 64])
    def test_datamatch_has_64_bits(self, plain: Guest, bell: EventFd, value: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(bell, plain.mmio, 8, value)

    @pytest.mark.parametrize("flags", [0x20, 1 << 31, IoEventFdFlag.DEASSIGN])
    def test_flags(self, plain: Guest, bell: EventFd, flags: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(bell, plain.mmio, 4, flags=flags)

    def test_the_unnamed_flag_is_ignored(self, plain: Guest, bell: EventFd) -> None:
        plain.pv.ioeventfd(bell, plain.mmio, 4, flags=IoEventFdFlag.FAST_MMIO)
        plain.run(plain.store(4), plain.store(4))
        assert routes(plain) == ["ioeventfd", "ioeventfd"]

    def test_a_closed_eventfd(self, plain: Guest) -> None:
        eventfd = EventFd()
        number = eventfd.fileno()
        eventfd.close()
        for source in (eventfd, number, -1, 1 << 20):
            with refused(errno.EBADF):
                plain.pv.ioeventfd(source, plain.mmio)

    def test_a_foreign_descriptor(self, plain: Guest, sock: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(sock, plain.mmio)

    def test_arguments_come_before_the_descriptor(self, plain: Guest) -> None:
        with refused(errno.EINVAL):
            plain.pv.ioeventfd(-1, plain.mmio, 3)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ((0, None), (4, 1)),
            ((4, None), (0, None)),
            ((4, None), (4, 7)),
            ((4, 7), (4, 7)),
            ((4, 7), (4, None)),
        ],
    )
    def test_collisions_name_both(
        self, plain: Guest, bell: EventFd, first: tuple[int, int | None], second: tuple[int, int | None]
    ) -> None:
        plain.pv.ioeventfd(bell, plain.mmio, *first)
        with refused(errno.EEXIST), EventFd() as other:
            plain.pv.ioeventfd(other, plain.mmio, *second)
        with pytest.raises(RegistrationError, match=rf"{plain.mmio:#x}.*collides with.*{plain.mmio:#x}"):
            plain.pv.ioeventfd(bell, plain.mmio, *second)

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_device_without_a_size(self, plain: Guest, size: int) -> None:
        with refused(errno.EINVAL):
            plain.pv.device(plain.mmio, size, Registers())

    def test_a_device_past_the_end(self, plain: Guest) -> None:
        for address, size in ((U64, 2), (-1, 1), (0, (1 << 64) + 1)):
            with refused(errno.EINVAL):
                plain.pv.device(address, size, Registers())

    def test_a_zone_past_its_fields(self, plain: Guest) -> None:
        for address, size in ((1 << 64, 1), (0, 1 << 32), (-1, 1)):
            with refused(errno.EINVAL):
                plain.pv.coalesced(address, size)

    def test_the_thousandth_and_first_device(self, plain: Guest, bell: EventFd) -> None:
        for number in range(1000):
            plain.pv.device(plain.mmio + 16 * number, 16, Registers())
        for register in (
            lambda: plain.pv.device(plain.mmio + 0x8000, 16, Registers()),
            lambda: plain.pv.coalesced(plain.mmio + 0x8000, 16),
            lambda: plain.pv.ioeventfd(bell, plain.mmio + 0x8000),
        ):
            with refused(errno.ENOSPC):
                register()
        assert len(plain.pv._regions) == 1000, "what was refused is not half there"
        plain.pv.vm.close()

    def test_a_refused_registration_holds_no_eventfd(self, plain: Guest) -> None:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for _ in range(20):
            with EventFd() as eventfd:
                plain.pv.ioeventfd(eventfd, plain.mmio).remove()
                with refused(errno.EINVAL):
                    plain.pv.ioeventfd(eventfd, plain.mmio, 3)
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        assert after <= before  # earlier tests' descriptors may be collected meanwhile


class TestHandle:
    def test_removed_it_no_longer_fires(self, any_guest: Guest, bell: EventFd) -> None:
        guest = any_guest
        handle = guest.pv.ioeventfd(bell, guest.mmio, 4)
        guest.run(guest.store(4))
        handle.remove()
        handle.remove()
        guest.run(guest.store(4))
        assert routes(guest) == ["ioeventfd", "userspace"]
        guest.pv.ioeventfd(bell, guest.mmio, 4)
        guest.run(guest.store(4))
        assert bell.read() == 2

    def test_as_a_context(self, plain: Guest, bell: EventFd) -> None:
        with plain.pv.ioeventfd(bell, plain.mmio) as handle:
            assert isinstance(handle, Registration)
            assert "removed" not in repr(handle)
        assert "removed" in repr(handle)
        assert f"{plain.mmio:#x}" in repr(handle)

    def test_the_fast_twin_goes_with_it(self, make_guest: MakeGuest, bell: EventFd) -> None:
        guest = make_guest("x86")
        with guest.pv.ioeventfd(bell, guest.mmio):
            guest.run(guest.store(4), guest.store(4))
        guest.run(guest.store(4))
        assert routes(guest) == ["ioeventfd", "fast", "userspace"]

    def test_from_inside_a_callback(self, guest: Guest, bell: EventFd) -> None:
        """What user space registers on an exit counts from the next access on."""
        handles: list[Registration] = []

        @guest.pv.on_userspace
        def register(exit_: object) -> None:
            handles.append(guest.pv.ioeventfd(bell, guest.mmio + 0x20, 4))

        guest.run(guest.store(4), guest.store(4, 0x20), guest.store(4, 0x20))
        assert routes(guest) == ["userspace", "ioeventfd", "ioeventfd"]

        @guest.pv.on_userspace
        def remove(exit_: object) -> None:
            handles[0].remove()

        guest.run(guest.store(4), guest.store(4, 0x20))
        assert routes(guest)[-2:] == ["userspace", "userspace"]

    def test_devices_and_zones(self, plain: Guest) -> None:
        device = plain.pv.device(plain.mmio, 0x100, Registers(), name="uart")
        assert "uart" in repr(device)
        zone = plain.pv.coalesced(plain.mmio + 0x80, 0x80)
        plain.run(plain.store(4))
        device.remove()
        zone.remove()
        plain.run(plain.store(4), plain.store(4, 0x80))
        assert routes(plain) == ["device", "userspace", "userspace"]

    def test_after_detaching_nothing_is_left_to_do(self, plain: Guest, bell: EventFd) -> None:
        handles = [
            plain.pv.ioeventfd(bell, plain.mmio),
            plain.pv.device(plain.mmio + 8, 8, Registers()),
            plain.pv.coalesced(plain.mmio + 16, 8),
        ]
        plain.machine.close()
        for handle in handles:
            handle.remove()
        for register in (
            lambda: plain.pv.ioeventfd(bell, plain.mmio),
            lambda: plain.pv.device(plain.mmio, 8, Registers()),
            lambda: plain.pv.coalesced(plain.mmio, 8),
        ):
            with pytest.raises(PvMmioError, match="detached"):
                register()

    def test_a_closed_eventfd_stays_registered(self, guest: Guest) -> None:
        """KVM holds the eventfd itself: its address stays taken, and a dup still hears it."""
        eventfd = EventFd(blocking=False)
        dup = eventfd.dup()
        guest.pv.ioeventfd(eventfd, guest.mmio, 4)
        eventfd.close()
        guest.run(guest.store(4))
        assert dup.read() == 1
        with refused(errno.EEXIST):
            guest.pv.ioeventfd(dup, guest.mmio, 4)
        dup.close()


class TestNeverFires:
    """Accepted as on KVM, and nothing can reach it: a warning that says why and what to do."""

    def test_ports_where_there_are_none(self, make_guest: MakeGuest, bell: EventFd) -> None:
        for arch in ("arm64", "ppc"):
            pv = make_guest(arch).pv
            with pytest.warns(NeverFires, match=f"{arch} has no port I/O.*MMIO"):
                pv.ioeventfd(bell, 0x50, 1, pio=True)
            with pytest.warns(NeverFires, match=f"{arch} has no port I/O"):
                pv.device(0x60, 4, Registers(), pio=True)
            with pytest.warns(NeverFires, match=f"{arch} has no port I/O"):
                pv.coalesced(0x60, 4, pio=True)

    @pytest.mark.parametrize(("port", "length"), [(0x10000, 1), (0x50, 8), (1 << 40, 0)])
    def test_what_is_no_port(self, make_guest: MakeGuest, bell: EventFd, port: int, length: int) -> None:
        with pytest.warns(NeverFires, match="ports are 0x0 to 0xffff"):
            make_guest("x86").pv.ioeventfd(bell, port, length, pio=True)

    @pytest.mark.parametrize("length", [1, 2, 4])
    def test_datamatch_above_its_length(self, plain: Guest, bell: EventFd, length: int) -> None:
        with pytest.warns(NeverFires, match=rf"datamatch 0x1\w+ has bits above its {length} bytes"):
            plain.pv.ioeventfd(bell, plain.mmio, length, (1 << 8 * length) | 0xFA)
        plain.pv.ioeventfd(bell, plain.mmio, length, 0xFA)
        plain.value = 0xFA
        plain.run(plain.store(length))
        assert bell.count == (plain.order == "little" or length == 1)

    def test_the_bus_of_another_architecture(self, plain: Guest, bell: EventFd) -> None:
        with pytest.warns(NeverFires, match="s390"):
            plain.pv.ioeventfd(bell, 0, 8, flags=IoEventFdFlag.VIRTIO_CCW_NOTIFY)

    def test_where_there_is_ram(self, plain: Guest, bell: EventFd) -> None:
        with pytest.warns(NeverFires, match=f"RAM at {plain.ram:#x}"):
            plain.pv.ioeventfd(bell, plain.ram, 4)
        plain.aim(plain.ram)
        plain.run(plain.store(4))
        assert bell.count == 0

    def test_ram_mapped_a_moment_ago_counts(self, guest: Guest, bell: EventFd) -> None:
        page = guest.mmio + 0x10000
        guest.run(guest.store(4))
        guest.uc.mem_map(page, 0x1000)
        with pytest.warns(NeverFires):
            guest.pv.ioeventfd(bell, page, 4)
        guest.uc.mem_unmap(page, 0x1000)
        guest.pv.ioeventfd(bell, page, 2)
        guest.aim(page)
        guest.run(guest.store(4), guest.store(2))
        assert bell.read() == 2, "and both fire now that the RAM is gone"

    def test_wide_doorbells_under_assist(self, make_guest: MakeGuest, bell: EventFd) -> None:
        guest = make_guest("arm64", decode="assist")
        with pytest.warns(NeverFires, match=r"8-byte store as two of 4"):
            guest.pv.ioeventfd(bell, guest.mmio, 8)
        guest.run(guest.store(8))
        assert bell.count == 0

    @pytest.mark.parametrize("length", [0, 1, 2, 4])
    def test_not_about_what_does_fire(self, any_guest: Guest, bell: EventFd, length: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            any_guest.pv.ioeventfd(bell, any_guest.mmio, length)
        any_guest.run(any_guest.store(length or 4))
        assert bell.read() == 1

    def test_read_only_ram_is_no_ram(self, plain: Guest, bell: EventFd) -> None:
        plain.uc.mem_map(plain.mmio, 0x1000, 1)
        plain.pv.ioeventfd(bell, plain.mmio, 4)
        plain.run(plain.store(4))
        assert bell.read() == 1

    def test_it_points_at_the_line_that_registers(self, plain: Guest, bell: EventFd) -> None:
        with pytest.warns(NeverFires) as caught:
            plain.pv.ioeventfd(bell, plain.ram)
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("decode", ["software"])
    def test_as_an_error_it_leaves_nothing_registered(
        self, make_guest: MakeGuest, bell: EventFd, decode: Decode
    ) -> None:
        guest = make_guest("arm64", decode=decode)
        with warnings.catch_warnings():
            warnings.simplefilter("error", NeverFires)
            for _ in range(2):
                with pytest.raises(NeverFires):
                    guest.pv.ioeventfd(bell, guest.ram, 4)
                with pytest.raises(NeverFires):
                    guest.pv.device(0x50, 4, Registers(), pio=True)
        assert len(guest.pv.vm.ioeventfds) == 0
