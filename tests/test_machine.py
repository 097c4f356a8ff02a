"""Ready guests: every variant runs, rings its doorbells, and says what it does not have."""

from __future__ import annotations

import pytest
from unicorn import Uc, UcError

from pvmmio_uc import EventFd, PvMmio
from pvmmio_uc.arch import ARCHES
from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.machine import ARCHITECTURES, Machine
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import VARIANTS, Guest, routes


def machine_of(arch: str, variant: Variant, decode: Decode = "software") -> Machine:
    return Machine(arch, bits=variant.bits, paging=variant.paging, order=variant.order, decode=decode)


def test_there_is_one_of_each_architecture() -> None:
    assert set(ARCHITECTURES) == set(ARCHES)
    assert len(set(VARIANTS)) == len(VARIANTS)


def test_every_variant_runs(variant: tuple[str, Variant], decode: Decode) -> None:
    with machine_of(*variant, decode) as machine:
        assert machine.variant == variant[1]
        assert isinstance(machine.uc, Uc)
        assert isinstance(machine.pv, PvMmio)
        start, end = machine.load("nop\nnop")
        machine.uc.emu_start(start, end)
        assert machine.pv.arch.start_address() == end
        for place in (machine.platform.code, machine.platform.stack):
            assert any(first <= place < first + size for first, size in machine.platform.ram)
        assert not any(first <= machine.platform.mmio < first + size for first, size in machine.platform.ram)


def test_its_doorbell_arrives_every_time(any_guest: Guest, bell: EventFd) -> None:
    machine = any_guest.machine
    rings = 0
    for size in any_guest.sizes:
        if size == 8 and any_guest.pv.decode == "assist":
            continue
        value = 0x1234_5678_9ABC_DEF0 & ((1 << 8 * size) - 1)
        image = int.from_bytes(value.to_bytes(size, any_guest.order), "little")
        machine.pv.ioeventfd(bell, any_guest.mmio + 0x10 * size, size, image)
        stub = machine.doorbell(any_guest.mmio + 0x10 * size, size=size, value=value, count=3)
        machine.run(stub.text)
        rings += 3
        assert bell.count == rings
        assert stub.ring in stub.text
    assert set(routes(any_guest)) == {"ioeventfd"}


@pytest.mark.parametrize("count", [1, 0x12345])
def test_its_count_may_be_large(arch: str, bell: EventFd, count: int) -> None:
    with Machine(arch, decode="assist", exit_limit=0) as machine:
        machine.pv.ioeventfd(bell, machine.platform.mmio)
        machine.run(machine.doorbell(machine.platform.mmio, count=count).text)
        assert bell.read() == count == machine.pv.exits.total


@pytest.mark.parametrize("size", [0, 3, 16, -1])
def test_a_width_that_no_store_has(variant: tuple[str, Variant], size: int) -> None:
    with machine_of(*variant) as machine, pytest.raises(ValueError, match=f"doorbell of {size} bytes"):
        machine.doorbell(machine.platform.mmio, size=size)


def test_eight_bytes_take_64_bits(variant: tuple[str, Variant]) -> None:
    with machine_of(*variant) as machine:
        if variant[1].bits == 64:
            assert machine.load(machine.doorbell(machine.platform.mmio, size=8).text)
        else:
            with pytest.raises(ValueError, match="8 bytes"):
                machine.doorbell(machine.platform.mmio, size=8)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_doorbells(make_guest: MakeGuest, bell: EventFd, size: int) -> None:
    for bits in (16, 32, 64):
        guest = make_guest("x86", Variant(bits, False, "little"))
        with guest.pv.ioeventfd(bell, 0x50, size, 0x42, pio=True):
            guest.machine.run(guest.machine.port_doorbell(0x50, size=size, value=0x42, count=2).text)
        assert bell.read() == 2


def test_no_ports_elsewhere() -> None:
    for arch in ("arm64", "ppc"):
        with Machine(arch) as machine, pytest.raises(ValueError, match=f"{arch} has no port I/O"):
            machine.port_doorbell(0x50)


class TestWhatThereIsNot:
    def test_an_architecture(self) -> None:
        with pytest.raises(ValueError, match=r"'mips': there are x86, arm64, ppc"):
            Machine("mips")

    @pytest.mark.parametrize(
        ("arch", "options"),
        [
            ("x86", {"bits": 8}),
            ("x86", {"bits": 16, "paging": True}),
            ("x86", {"order": "big"}),
            ("arm64", {"bits": 32}),
            ("ppc", {"bits": 64, "paging": True}),
        ],
    )
    def test_a_variant(self, arch: str, options: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=f"{arch} has no .*there are"):
            Machine(arch, **options)  # type: ignore[arg-type]

    def test_a_register(self, arch: str) -> None:
        with Machine(arch) as machine:
            for name in ("", "nonsense", "x99"):
                with pytest.raises(ValueError, match="no register"):
                    machine[name]
                with pytest.raises(ValueError, match="no register"):
                    machine[name] = 1


class TestRun:
    def test_registers_by_their_manual_names(self) -> None:
        with Machine("x86") as machine:
            machine.run("add rax, rbx", {"rax": 1, "rbx": 2})
            assert machine["rax"] == machine["eax"] == 3
        with Machine("arm64") as machine:
            machine.run("add x0, x1, x2", {"x1": 1, "x2": 2})
            assert machine["x0"] == 3
        with Machine("ppc") as machine:
            machine.run("add 3, 4, 5", {"r4": 1, "r5": 2})
            assert machine["r3"] == 3

    def test_count_and_timeout(self, guest: Guest) -> None:
        guest.counter = 0
        guest.machine.run("\n".join([guest.count] * 10), count=4)
        assert guest.counter == 4
        guest.machine.run(guest.loop(guest.store(4)), timeout=5_000)

    def test_code_at_another_place_and_again_at_the_same(self, any_guest: Guest) -> None:
        """The engine does not notice that translated code was changed from outside (unicorn #1148)."""
        guest = any_guest
        for body in ([guest.count], [guest.nop, guest.count, guest.count]):
            start, end = guest.place(*body, address=guest.ram - 0x800)
            guest.counter = 0
            guest.uc.emu_start(start, end)
            assert guest.counter == body.count(guest.count)

    def test_little_endian_ppc_code_is_little_endian(self) -> None:
        images = {}
        for order in ("big", "little"):
            with Machine("ppc", order=order) as machine:  # type: ignore[arg-type]
                start, end = machine.load("stw 3, 8(4)\nnop")
                images[order] = bytes(machine.uc.mem_read(start, end - start))
        big, little = images["big"], images["little"]
        assert little == big[3::-1] + big[:3:-1]

    def test_closed_it_is_an_engine_without_a_plugin(self, arch: str) -> None:
        machine = Machine(arch)
        machine.close()
        machine.close()
        stub = machine.doorbell(machine.platform.mmio)
        with pytest.raises(UcError):
            machine.run(stub.text)
