"""The string forms of port I/O: element by element out, read ahead in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvmmio_uc.errors import EmulationFailure
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Steps
from pvmmio_uc.registration import Registration

from .port_guests import BUFFER, PORT, Counter, execute, guest, ramp

READ_AHEAD = 1024
INS, OUTS = {1: 0x6C, 2: 0x6D, 4: 0x6D}, {1: 0x6E, 2: 0x6F, 4: 0x6F}


def string_code(bits: int, opcode: int, width: int, *, rep: bool, down: bool, other: bool) -> bytes:
    """``other`` is the address size that the code does not have by itself."""
    prefixes = [0x67] if other else []
    if width > 1 and (width == 2) != (bits == 16):
        prefixes.append(0x66)
    return bytes([0xFD if down else 0xFC, *prefixes, *([0xF3] if rep else []), opcode])


def batches(count: int, width: int, address: int, down: bool) -> list[int]:
    """What KVM reads ahead: to the page end in bytes, 1024 bytes, or what is left (pio_in_emulated)."""
    result = []
    while count:
        in_page = address % 0x1000 if down else 0x1000 - address % 0x1000
        batch = max(1, min(in_page, READ_AHEAD // width, count))
        result.append(batch)
        count -= batch
        address += batch * width * (-1 if down else 1)
    return result


@st.composite
def strings(draw: st.DrawFn) -> tuple[int, int, int, int, bool, bool]:
    """(bits, width, count, address, down, other address size)."""
    bits, width = draw(st.sampled_from([16, 32, 64])), draw(st.sampled_from([1, 2, 4]))
    count = draw(st.one_of(st.integers(0, 20), st.integers(0, 1500)))
    edge = draw(st.sampled_from([BUFFER, BUFFER + 0x800, BUFFER + 0x1000, BUFFER + 0x1FF0]))
    return bits, width, count, edge + draw(st.integers(-9, 9)), draw(st.booleans()), draw(st.booleans())


class TestStrings:
    @settings(deadline=None, max_examples=120)
    @given(strings())
    def test_rep_ins(self, what: tuple[int, int, int, int, bool, bool]) -> None:
        bits, width, count, address, down, other = what
        machine, recorder = guest(bits)
        with machine:
            step = width * (-1 if down else 1)
            machine["edi"], machine["ecx"] = address, count
            if bits == 64 and other:
                machine["rcx"] = 0xFFFF_0000_0000 | count
            execute(machine, string_code(bits, INS[width], width, rep=True, down=down, other=other))
            assert [e[:4] for e in recorder.exits] == [
                (False, PORT, width, batch) for batch in batches(count, width, address, down)
            ]
            elements = b"".join(ramp(e[2] * e[3]) for e in recorder.exits)
            for n in range(0, count, 1 + count // 16):
                stored = machine.uc.mem_read(address + n * step, width)
                assert stored == elements[n * width : (n + 1) * width], n
            assert (machine["ecx"], machine["edi"]) == (0, address + count * step)
            assert machine.pv.exits.total == len(recorder.exits)
            assert machine.pv.exits.steps.exits == (1 if count else 0)

    @settings(deadline=None, max_examples=60)
    @given(strings())
    def test_rep_outs(self, what: tuple[int, int, int, int, bool, bool]) -> None:
        bits, width, count, address, down, other = what
        count %= 64
        machine, recorder = guest(bits)
        with machine:
            step = width * (-1 if down else 1)
            machine.uc.mem_write(BUFFER - 0x800, bytes(n * 7 & 0xFF for n in range(0x3000)))
            machine["esi"], machine["ecx"] = address, count
            execute(machine, string_code(bits, OUTS[width], width, rep=True, down=down, other=other))
            expected = [bytes(machine.uc.mem_read(address + n * step, width)) for n in range(count)]
            assert recorder.exits == [(True, PORT, width, 1, data) for data in expected]
            assert (machine["ecx"], machine["esi"]) == (0, address + count * step)
            assert machine.pv.exits.steps.exits == (1 if count else 0)

    @pytest.mark.parametrize("bits", [16, 32, 64])
    @pytest.mark.parametrize("width", [1, 2, 4])
    def test_without_rep(self, bits: int, width: int) -> None:
        machine, recorder = guest(bits)
        with machine:
            machine["edi"], machine["ecx"], machine["esi"] = BUFFER, 9, BUFFER
            code = string_code(bits, INS[width], width, rep=False, down=False, other=False)
            execute(machine, code + string_code(bits, OUTS[width], width, rep=False, down=False, other=False))
            assert recorder.exits == [
                (False, PORT, width, 1, b"\xff" * width),
                (True, PORT, width, 1, ramp(width)),
            ]
            assert (machine["ecx"], machine["edi"], machine["esi"]) == (9, BUFFER + width, BUFFER + width)

    def test_steps_of_getting_there(self) -> None:
        machine, _ = guest()
        with machine:
            machine["edi"], machine["ecx"] = BUFFER + 0xFFF, 2
            execute(machine, b"\xf3\x6c")
            first, second = machine.pv.exits
        assert first.steps == Steps(exits=1, fetch=15, decode=1, userspace=1)
        assert second.steps == Steps(userspace=1)

    def test_a_device_is_read_ahead_once_for_each_element(self) -> None:
        machine, recorder = guest()
        device = Counter()
        with machine:
            machine.pv.device(PORT, 1, device, pio=True)
            machine["edi"], machine["ecx"] = BUFFER, 300
            execute(machine, b"\xf3\x6c")
            assert (device.reads, recorder.exits) == (300, [])
            assert machine.uc.mem_read(BUFFER, 300) == bytes(n & 0xFF for n in range(1, 301))

    def test_what_a_device_leaves_unanswered_is_zero(self) -> None:
        """As in the kernel: only the first element decides who is asked."""
        machine, recorder = guest()
        registered: list[Registration] = []

        def go(reads: int) -> None:
            if reads == 2:
                registered[0].remove()

        with machine:
            registered.append(machine.pv.device(PORT, 1, Counter(go), pio=True))
            machine["edi"], machine["ecx"] = BUFFER, 5
            machine.uc.mem_write(BUFFER, b"\xee" * 6)
            execute(machine, b"\xf3\x6c")
            assert machine.uc.mem_read(BUFFER, 6) == b"\1\2\0\0\0\xee"
            assert recorder.exits == []

    def test_doorbells_fire_for_each_element(self) -> None:
        machine, recorder = guest()
        with machine, EventFd() as kick:
            machine.pv.ioeventfd(kick, PORT, 1, datamatch=ord("a"), pio=True)
            machine.uc.mem_write(BUFFER, b"abaca")
            machine["esi"], machine["ecx"] = BUFFER, 5
            execute(machine, b"\xf3\x6e")
            assert kick.count == 3
            assert [e[4] for e in recorder.exits] == [b"b", b"c"]

    @pytest.mark.parametrize(("opcode", "register"), [(0x6C, "edi"), (0x6E, "esi")], ids=["insb", "outsb"])
    def test_between_a_port_and_a_device(self, opcode: int, register: str) -> None:
        """No plain load or store. The port has not been touched."""
        machine, recorder = guest()
        with machine:
            machine[register] = machine.platform.mmio
            with pytest.raises(EmulationFailure) as caught:
                execute(machine, bytes([opcode]))
            assert caught.value.address == machine.platform.mmio
            assert (recorder.exits, machine[register]) == ([], machine.platform.mmio)

    def test_a_segment_override(self) -> None:
        machine, recorder = guest(16)
        with machine:
            machine["fs"], machine["ds"], machine["esi"] = BUFFER >> 4, 0, 2
            machine.uc.mem_write(BUFFER, b"abcd")
            execute(machine, b"\x64\x6e")
            assert recorder.exits == [(True, PORT, 1, 1, b"c")]


def test_an_instruction_on_two_pages() -> None:
    """Its bytes are fetched from both, for the prefixes."""
    machine, recorder = guest()
    with machine:
        at = 0x3000 - 1
        machine.uc.mem_write(at, b"\xf3\x6c")
        machine["edi"], machine["ecx"] = BUFFER, 4
        machine.uc.emu_start(at, at + 2)
        assert [e[3] for e in recorder.exits] == [4]
