"""Guests that do what nobody should: every one ends with a typed error or an exit, and the host goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from unicorn import UcError

from pvmmio_uc import (
    EmulationFailure,
    EventFd,
    FetchFromDevice,
    GuestError,
    GuestPageFault,
    PvMmioError,
    Reason,
    UserspaceExit,
)
from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import Guest, routes

ROOT = Path(__file__).parent.parent


def goes_on(guest: Guest) -> None:
    """The engine runs on after the error."""
    if guest.variant.bits == 16:
        guest.machine["cs"] = 0
    guest.aim(guest.mmio)
    guest.counter = 0
    guest.run(guest.count, guest.store(4, 0x20), guest.count)
    assert guest.counter == 2
    assert guest.pv.exits[-1].address == guest.mmio + 0x20


def error_of(guest: Guest, *lines: str) -> Exception | None:
    """What running these lines raises, if anything; errors of other kinds pass."""
    try:
        guest.run(*lines)
    except (GuestError, UcError) as error:
        return error
    return None


class TestFetch:
    def test_a_jump_into_a_device(self, any_guest: Guest) -> None:
        guest = any_guest
        with pytest.raises((FetchFromDevice, GuestPageFault)) as caught:
            guest.run(guest.words.jump)
        # With translation by BATs the ppc guest has no code there.
        no_code = guest.arch == "ppc" and guest.variant.paging
        assert isinstance(caught.value, GuestPageFault if no_code else FetchFromDevice)
        assert caught.value.address is not None
        assert caught.value.address >> 12 == guest.mmio >> 12
        assert f"{caught.value.address:#x}" in str(caught.value)
        exit_ = guest.pv.exits[-1]
        assert str(exit_.route) == "error"
        if not no_code:
            assert exit_.reason is Reason.FETCH
        goes_on(guest)

    def test_starting_in_one(self, any_guest: Guest) -> None:
        if any_guest.variant.bits == 16:
            pytest.skip("the engine takes the segment for granted: it would start at 0000:0000")
        with pytest.raises(GuestError):
            any_guest.uc.emu_start(any_guest.mmio, 0)
        goes_on(any_guest)

    def test_a_guest_that_runs_off_its_ram(self, guest: Guest) -> None:
        first, size = guest.machine.platform.ram[0]
        _, end = guest.place(guest.count, address=first + size - guest.length(guest.count))
        with pytest.raises(FetchFromDevice, match=f"guest-physical {end:#x}") as caught:
            guest.uc.emu_start(end - guest.length(guest.count), 0)
        assert caught.value.address == end
        goes_on(guest)

    def test_a_stub_that_ends_where_ram_ends(self, any_guest: Guest) -> None:
        guest = any_guest
        first, size = guest.machine.platform.ram[0]
        end = first + size
        if guest.variant.bits == 16:
            pytest.skip("its segments end long before its RAM does")
        start = end - guest.length(guest.count) - guest.length(guest.store(4))
        guest.place(guest.count, guest.store(4), address=start)
        guest.counter = 0
        guest.uc.emu_start(start, end)
        assert (guest.counter, routes(guest)) == (1, ["userspace"])

    def test_a_doorbell_is_not_rung_by_it(self, make_guest: MakeGuest, decode: Decode, bell: EventFd) -> None:
        guest = make_guest("x86", decode=decode)
        guest.pv.ioeventfd(bell, guest.mmio)
        guest.run(guest.store(4, 8))
        with pytest.raises(FetchFromDevice):
            guest.run(guest.words.jump)
        assert bell.count == 0


class TestUnknown:
    CASES = (
        ("x86", "movups xmmword ptr [rbx], xmm0", "movups"),
        ("x86", "fxsave [rbx]", "fxsave"),
        ("arm64", "dc zva, x1", ""),
        ("ppc", "lwarx 3, 0, 4", "lwarx"),
    )

    @pytest.mark.parametrize(("arch", "text", "word"), CASES)
    def test_an_instruction_that_software_decode_does_not_complete(
        self, make_guest: MakeGuest, arch: str, text: str, word: str
    ) -> None:
        guest = make_guest(arch)
        start, _ = guest.place(text)
        error = error_of(guest, text)
        if error is not None:  # decode may have learned it
            assert isinstance(error, EmulationFailure)
            assert (error.pc, error.address) == (start, guest.mmio)
            for part in (word, f"{guest.mmio:#x}", f"{start:#x}"):
                assert part in str(error)
            assert guest.uc.mem_read(start, len(error.insn_bytes)) == error.insn_bytes
            assert guest.pc == start
            assert routes(guest) == ["error"]
            assert guest.pv.exits[0].steps.signals == 0
        goes_on(guest)

    @pytest.mark.parametrize(("arch", "text", "word"), CASES)
    def test_assist_executes_it(self, make_guest: MakeGuest, arch: str, text: str, word: str) -> None:
        guest = make_guest(arch, decode="assist")
        guest.run(text)
        assert guest.pv.exits.total > 0

    def test_garbage(self, any_guest: Guest) -> None:
        guest = any_guest
        code = guest.machine.platform.code
        illegal = {"x86": b"\x0f\x0b", "arm64": bytes(4), "ppc": bytes(4)}[guest.arch]
        guest.uc.mem_write(code, illegal)
        guest.uc.ctl_flush_tb()
        with pytest.raises((UcError, PvMmioError)):
            guest.uc.emu_start(code, 0)
        goes_on(guest)


class TestEndless:
    def test_a_loop_on_a_device_ends_by_count_by_timeout_and_by_a_stop(self, any_guest: Guest) -> None:
        guest = any_guest
        start, _ = guest.place(guest.loop(guest.store(4)))
        guest.uc.emu_start(start, 0, 0, 20)
        assert 9 <= guest.pv.exits.total <= 11
        guest.uc.emu_start(start, 0, 5_000)  # and comes back
        before = guest.pv.exits.total

        @guest.pv.on_userspace
        def stop(exit_: UserspaceExit) -> None:
            if guest.pv.exits.total == before + 5:
                guest.uc.emu_stop()

        guest.uc.emu_start(start, 0)
        assert guest.pv.exits.total == before + 6
        guest.pv.on_userspace(lambda exit_: None)
        goes_on(guest)


class TestTables:
    """Page tables that are not where they should be."""

    def paging(self, make_guest: MakeGuest, arch: str, decode: Decode) -> Guest:
        order = "big" if arch == "ppc" else "little"
        return make_guest(arch, Variant(32 if arch == "ppc" else 64, True, order), decode=decode)  # type: ignore[arg-type]

    @pytest.mark.parametrize("arch", ["x86", "arm64"])
    def test_outside_memory(self, make_guest: MakeGuest, arch: str, decode: Decode) -> None:
        guest = self.paging(make_guest, arch, decode)
        nowhere = guest.mmio + 0x5000
        guest.run(guest.store(4))
        context = guest.uc.context_save()
        guest.machine["rax" if arch == "x86" else "x9"] = nowhere
        switch = {
            "x86": ["mov cr3, rax"],
            "arm64": ["msr ttbr0_el1, x9", "isb", "tlbi vmalle1", "isb"],
        }[arch]
        with pytest.raises((UcError, GuestError)):
            guest.run(*switch, guest.store(4), timeout=1_000_000)
        guest.uc.context_restore(context)
        goes_on(guest)

    def test_on_a_page_of_a_device_that_was_just_used(self, make_guest: MakeGuest, decode: Decode) -> None:
        guest = self.paging(make_guest, "x86", decode)
        guest.machine["rax"] = guest.mmio & ~0xFFF
        context = guest.uc.context_save()
        with pytest.raises((UcError, GuestError)):
            guest.run(guest.store(4), "mov cr3, rax", guest.store(4), timeout=1_000_000)
        guest.uc.context_restore(context)
        goes_on(guest)

    def test_changed_behind_the_back_of_the_tlb(self, make_guest: MakeGuest, decode: Decode) -> None:
        """The engine still runs code that the walk no longer finds: the walk is right, and says so."""
        guest = self.paging(make_guest, "x86", decode)
        tables = 0x0020_0000
        guest.machine["rdi"] = tables
        guest.counter = 0
        error = error_of(guest, "mov qword ptr [rdi], 0", guest.store(4), guest.count)
        assert guest.pv.exits.total == 1
        if decode == "assist":  # the engine may have looked at the tables again for another reason
            assert (error, guest.counter) == (None, 1) or isinstance(error, GuestPageFault)
        else:
            assert isinstance(error, GuestError)
            assert routes(guest) == ["error"]

    def test_the_second_page_of_an_access_is_not_mapped(self, make_guest: MakeGuest, decode: Decode) -> None:
        guest = self.paging(make_guest, "x86", decode)
        directory = 0x0020_2000 + 3 * 0x1000
        index = (guest.mmio >> 21) % 512
        guest.uc.mem_write(directory + 8 * (index + 1), bytes(8))
        guest.aim((guest.mmio & ~0x1FFFFF) + 0x20_0000)
        for line in (guest.store(4, -2), guest.load(4, -2)):
            with pytest.raises((GuestError, UcError)) as caught:
                guest.run(line)
            assert isinstance(caught.value, GuestError)
            assert caught.value.pc == guest.pc
        goes_on(guest)


class TestEdges:
    @pytest.mark.parametrize("what", ["store", "load"])
    @pytest.mark.parametrize("below", [1, 2, 3, 4, 8])
    def test_accesses_at_and_past_the_end_of_the_address_space(
        self, make_guest: MakeGuest, arch: str, decode: Decode, below: int, what: str
    ) -> None:
        guest = make_guest(arch, decode=decode)
        bits = 32 if arch == "ppc" else 64
        guest.machine[guest.words.base] = (1 << bits) - below
        error = error_of(guest, getattr(guest, what)(4))
        if error is None:
            sizes = [access.size for exit_ in guest.pv.exits for access in exit_.accesses]
            assert sum(sizes) >= min(4, below)
        else:
            assert arch == "arm64", "whose addresses have fewer bits"
        goes_on(guest)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
class TestRandomCode:
    CASES = int(os.environ.get("PVMMIO_RANDOM_GUESTS", "10000"))

    def test_never_takes_the_host_process_down(self, arch: str, decode: Decode) -> None:
        """Half of the cases on each of the two ways to decode."""
        arguments = [arch, decode, str(self.CASES // 2), "2013"]
        run = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", "tests.random_guest", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert run.stderr == ""
        result = json.loads(run.stdout)
        assert result["left"] == [0, 0], "descriptors, threads"
        known = {
            "done",
            "expected UcError",
            "EmulationFailure",
            "FetchFromDevice",
            "GuestPageFault",
            "GuestCrash",
        }
        assert result["endings"].keys() <= known
        assert sum(result["endings"].values()) >= self.CASES // 2
        assert result["endings"]["done"] > 0
