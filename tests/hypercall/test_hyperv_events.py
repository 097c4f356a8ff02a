"""HvCallSignalEvent, HvCallPostMessage, and what goes to user space."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pvmmio_uc.exits import Access, Route
from pvmmio_uc.hypercall.cpu import Outcome

from .fakes import PAGE, RAM, RAM_SIZE, ROM, U64
from .hyperv_guest import FAST, INPUT, LAYOUTS, OUTPUT, Guest, layout_fixture, registers

POST, SIGNAL = 0x5C, 0x5D
SUCCESS, CODE, WRONG, ALIGNMENT, PARAMETER, DENIED = 0, 2, 3, 4, 5, 6
PORT_ID, CONNECTION_ID = 0x11, 0x12

layout = layout_fixture()


class Userspace:
    """A VMM that notes what it is asked and answers with ``result``."""

    def __init__(self, result: int | None = None) -> None:
        self.result = result
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, control: int, parameter: int, output: int) -> int | None:
        self.asked.append((control, parameter, output))
        return self.result


def guest_with(layout: str, result: int | None = None, **state: Any) -> tuple[Guest, Userspace]:
    userspace = Userspace(result)
    return Guest(layout, state={"synic": True, **state}, on_hyperv_exit=userspace), userspace


def signal(guest: Guest, parameter: int, fast: bool) -> int:
    if fast:
        return guest.call(SIGNAL | FAST, parameter, 0x77)
    guest.board.put(INPUT, parameter.to_bytes(8, "little"))
    return guest.call(SIGNAL, INPUT, 0x77)


@pytest.mark.parametrize("fast", [False, True], ids=["slow", "fast"])
class TestSignal:
    @pytest.mark.parametrize("connection", [0, 1, 0x1234, 0xFF_FFFF])
    def test_a_known_connection(self, layout: str, fast: bool, connection: int) -> None:
        guest = Guest(layout)
        bell = guest.board.connect(connection)
        other = guest.board.connect(connection ^ 1)
        assert signal(guest, connection, fast) == SUCCESS
        assert (bell.count, other.count) == (1, 0)
        assert guest.operations.accesses == [Access(True, connection, 0, b"", Route.IOEVENTFD)]
        assert guest.operations.steps.signals == 1
        assert guest.operations.steps.userspace == 0

    def test_an_unknown_connection_without_synic(self, layout: str, fast: bool) -> None:
        userspace = Userspace(SUCCESS)
        guest = Guest(layout, on_hyperv_exit=userspace)
        assert signal(guest, 5, fast) == WRONG
        assert userspace.asked == []

    @pytest.mark.parametrize("result", [SUCCESS, PORT_ID, 0x1234_5678_9ABC_DEF0, U64, -1])
    def test_an_unknown_connection_is_user_spaces(self, layout: str, fast: bool, result: int) -> None:
        guest, userspace = guest_with(layout, result)
        assert signal(guest, 5, fast) == result & U64
        assert userspace.asked == [(SIGNAL | (FAST if fast else 0), 5, 0x77)]
        assert guest.operations.steps.userspace == 1
        assert guest.operations.accesses == [Access(True, 5, 0, b"", Route.USERSPACE)]

    def test_that_user_space_does_not_know_either(self, layout: str, fast: bool) -> None:
        guest, userspace = guest_with(layout, None)
        assert signal(guest, 5, fast) == CONNECTION_ID
        assert len(userspace.asked) == 1
        assert guest.operations.accesses == []

    def test_without_a_user_space(self, layout: str, fast: bool) -> None:
        guest = Guest(layout, state={"synic": True})
        assert signal(guest, 5, fast) == CONNECTION_ID
        assert guest.operations.steps.userspace == 0

    @pytest.mark.parametrize("bit", range(32, 48))
    def test_a_flag_number(self, layout: str, fast: bool, bit: int) -> None:
        """Bits 47:32, whatever the document says; KVM takes only 0 and leaves the rest to user space."""
        guest = Guest(layout)
        bell = guest.board.connect(5)
        assert signal(guest, 5 | 1 << bit, fast) == WRONG
        guest.state.synic = True
        assert signal(guest, 5 | 1 << bit, fast) == PORT_ID
        guest.hyperv.on_hyperv_exit = Userspace(SUCCESS)
        assert signal(guest, 5 | 1 << bit, fast) == SUCCESS
        assert bell.count == 0

    @pytest.mark.parametrize("bit", [*range(24, 32), *range(48, 64)])
    def test_other_bits(self, layout: str, fast: bool, bit: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        bell = guest.board.connect(5)
        assert signal(guest, 5 | 1 << bit, fast) == WRONG
        assert (bell.count, userspace.asked) == (0, [])

    def test_the_flag_number_is_looked_at_first(self, layout: str, fast: bool) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert signal(guest, 1 << 24 | 1 << 32, fast) == SUCCESS
        assert len(userspace.asked) == 1

    @pytest.mark.parametrize(("field", "value"), [(17, 1), (26, 1), (32, 1), (43, 1), (48, 1), (59, 1)])
    def test_a_list_or_a_header(self, layout: str, fast: bool, field: int, value: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        bell = guest.board.connect(INPUT if fast else 5)
        control = SIGNAL | (FAST if fast else 0) | value << field
        assert guest.call(control, INPUT) == WRONG
        assert (bell.count, userspace.asked) == (0, [])

    @pytest.mark.parametrize("enforce", [False, True])
    def test_the_privilege(self, layout: str, fast: bool, enforce: bool) -> None:
        guest, _ = guest_with(layout, enforce=enforce)
        guest.board.connect(5)
        guest.state.features = replace(guest.state.features, signal_events=False)
        assert signal(guest, 5, fast) == (DENIED if enforce else SUCCESS)

    def test_it_is_not_withdrawn(self, layout: str, fast: bool) -> None:
        """It is KVM's own call, not one of PV MMIO."""
        guest = Guest(layout)
        bell = guest.board.connect(5)
        guest.hyperv.offered = False
        assert signal(guest, 5, fast) == SUCCESS
        assert bell.count == 1


class TestSignalBlock:
    @pytest.mark.parametrize("off", range(1, 8))
    def test_unaligned(self, layout: str, off: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(SIGNAL, INPUT + off) == ALIGNMENT
        assert userspace.asked == []

    @pytest.mark.parametrize("gpa", [0, RAM + RAM_SIZE, RAM - 8, U64 - 7, 1 << 63])
    def test_unreadable_is_an_alignment_too(self, layout: str, gpa: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(SIGNAL, gpa) == ALIGNMENT
        assert userspace.asked == []

    @pytest.mark.parametrize("gpa", [RAM + PAGE - 8, ROM])
    def test_readable(self, layout: str, gpa: int) -> None:
        guest = Guest(layout)
        bell = guest.board.connect(0)
        assert guest.call(SIGNAL, gpa) == SUCCESS
        assert bell.count == 1


class TestPost:
    def test_always_user_space(self, layout: str) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(POST, INPUT, OUTPUT) == SUCCESS
        assert userspace.asked == [(POST, INPUT, OUTPUT)]
        assert guest.operations.steps.userspace == 1
        assert guest.operations.accesses == [Access(True, INPUT, 0, b"", Route.USERSPACE)]

    @pytest.mark.parametrize("gpa", [3, U64, RAM + RAM_SIZE])
    def test_the_message_is_user_spaces_to_read(self, layout: str, gpa: int) -> None:
        guest, userspace = guest_with(layout, 0xB)
        assert guest.call(POST, gpa) == 0xB
        assert userspace.asked == [(POST, gpa, 0)]

    def test_without_synic(self, layout: str) -> None:
        guest, userspace = guest_with(layout, SUCCESS, synic=False)
        assert guest.call(POST, INPUT) == WRONG
        assert userspace.asked == []

    @pytest.mark.parametrize(("fast", "status"), [(0, CONNECTION_ID), (FAST, CODE)])
    def test_without_an_answer(self, layout: str, fast: int, status: int) -> None:
        guest, _ = guest_with(layout, None)
        assert guest.call(POST | fast, INPUT) == status
        guest.hyperv.on_hyperv_exit = None
        assert guest.call(POST | fast, INPUT) == status

    def test_fast_goes_to_user_space_as_well(self, layout: str) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(POST | FAST, 1, 2) == SUCCESS
        assert userspace.asked == [(POST | FAST, 1, 2)]

    @pytest.mark.parametrize("bit", [17, 26, 32, 43, 48, 59])
    def test_a_list_or_a_header(self, layout: str, bit: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(POST | 1 << bit, INPUT) == WRONG
        assert userspace.asked == []

    @pytest.mark.parametrize("enforce", [False, True])
    def test_the_privilege(self, layout: str, enforce: bool) -> None:
        guest, _ = guest_with(layout, SUCCESS, enforce=enforce)
        guest.state.features = replace(guest.state.features, post_messages=False)
        assert guest.call(POST, INPUT) == (DENIED if enforce else SUCCESS)


class TestExtended:
    @pytest.mark.parametrize("code", [0x8002, 0x8006, 0x802F, 0x8031, 0x8041])
    def test_the_range_is_user_spaces(self, layout: str, code: int) -> None:
        guest, userspace = guest_with(layout, 0x1D, synic=False)
        assert guest.call(code, INPUT, OUTPUT) == 0x1D
        assert userspace.asked == [(code, INPUT, OUTPUT)]

    @pytest.mark.parametrize("code", [0x8000, 0x8042, 0xFFFF])
    def test_beside_the_range(self, layout: str, code: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(code, INPUT) == CODE
        assert userspace.asked == []

    @pytest.mark.parametrize("code", range(0x8001, 0x8042))
    def test_fast(self, layout: str, code: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(code | FAST, INPUT) == PARAMETER
        assert userspace.asked == []

    def test_lists_and_headers_are_user_spaces_to_judge(self, layout: str) -> None:
        guest, userspace = guest_with(layout, SUCCESS)
        control = 0x8002 | 3 << 17 | 5 << 32 | 9 << 48
        assert guest.call(control, INPUT) == SUCCESS
        assert userspace.asked == [(control, INPUT, 0)]

    def test_without_an_answer(self, layout: str) -> None:
        guest, _ = guest_with(layout, None)
        assert guest.call(0x8002, INPUT) == CODE

    @pytest.mark.parametrize("code", [0x8001, 0x8002, 0x8030, 0x8041])
    @pytest.mark.parametrize("fast", [0, FAST])
    def test_the_privilege(self, layout: str, code: int, fast: int) -> None:
        guest, userspace = guest_with(layout, SUCCESS, enforce=True)
        guest.state.features = replace(guest.state.features, extended=False)
        assert guest.call(code | fast, INPUT) == DENIED
        assert userspace.asked == []
        guest.state.enforce = False
        assert guest.call(code | fast, INPUT) == (PARAMETER if fast else SUCCESS)

    def test_capabilities(self, layout: str) -> None:
        """Call 0x8030 is capability 0x2e, as 0x8002 is capability 0."""
        guest, userspace = guest_with(layout)
        assert guest.call(0x8001, U64, OUTPUT) == SUCCESS
        assert guest.board.memory.writes == [(OUTPUT, (1 << 0x30 - 2).to_bytes(8, "little"))]
        assert userspace.asked == []

    @pytest.mark.parametrize(
        ("output", "status"), [(OUTPUT + 4, ALIGNMENT), (0, WRONG), (ROM, WRONG), (U64 - 7, WRONG)]
    )
    def test_capabilities_to_a_bad_place(self, layout: str, output: int, status: int) -> None:
        guest, _ = guest_with(layout)
        assert guest.call(0x8001, 0, output) == status
        assert guest.board.memory.writes == []

    @pytest.mark.parametrize("bit", [17, 32, 48])
    def test_capabilities_are_a_simple_call(self, layout: str, bit: int) -> None:
        guest, _ = guest_with(layout)
        assert guest.call(0x8001 | 1 << bit, 0, OUTPUT) == WRONG

    @pytest.mark.parametrize("code", [0x8001, 0x8030])
    def test_withdrawn_they_are_user_spaces(self, layout: str, code: int) -> None:
        guest, userspace = guest_with(layout, 0x1E)
        guest.hyperv.offered = False
        assert guest.call(code, INPUT, OUTPUT) == 0x1E
        assert userspace.asked == [(code, INPUT, OUTPUT)]


class TestUnknown:
    @pytest.mark.parametrize("code", [0, 1, 2, 8, 0x4D, 0x5B, 0x5E, 0xC0, 0xC1, 0x105, 0x108, 0x7FFF])
    @pytest.mark.parametrize("extra", [0, FAST, 3 << 32, 1 << 48, 1 << 17])
    def test_codes(self, layout: str, code: int, extra: int) -> None:
        """2, whatever else the control word says, but for reserved bits."""
        guest, userspace = guest_with(layout, SUCCESS)
        assert guest.call(code | extra, INPUT, OUTPUT) == CODE
        assert userspace.asked == []
        assert guest.board.untouched

    @pytest.mark.parametrize("code", [0x50, 0x51])
    def test_vp_registers_on_x86(self, code: int) -> None:
        for name in LAYOUTS[:2]:
            guest, _ = guest_with(name, SUCCESS)
            assert guest.call(code | 1 << 32, INPUT, OUTPUT) == CODE


def test_a_callback_may_raise(layout: str) -> None:
    def stop(*_: int) -> int:
        raise RuntimeError("the VMM has seen enough")

    guest = Guest(layout, state={"synic": True}, on_hyperv_exit=stop)
    with pytest.raises(RuntimeError, match="enough"):
        guest.execute(registers(layout, POST, INPUT))
    assert guest.last.written == {}


def test_a_call_that_completes_changes_only_the_result(layout: str) -> None:
    guest, _ = guest_with(layout, SUCCESS)
    assert guest.execute(registers(layout, POST, INPUT)) is Outcome.DONE
    written = {LAYOUTS[0]: {"rax"}, LAYOUTS[1]: {"rax", "rdx"}}.get(layout, {"x0"})
    assert set(guest.last.written) == written
