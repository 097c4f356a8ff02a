"""Attaching and detaching: an engine that was never touched, and nothing left of the plugin."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from unicorn import UC_ARCH_MIPS, UC_MODE_64, UC_MODE_BIG_ENDIAN, UC_MODE_MIPS32, Uc, UcError, unicorn_const
from unicorn.unicorn_const import UC_ARCH_X86, UC_HOOK_CODE, UC_HOOK_MEM_WRITE_UNMAPPED

from pvmmio_uc import EventFd, PvMmio, PvMmioError, UnsupportedArchitecture, UserspaceExit
from pvmmio_uc import plugin as plugin_module
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import Guest, Registers, routes

DESCRIPTORS = "/proc/self/fd"
_CONTEXT_HEADER = 32  # the engine's own bookkeeping, not the CPU's


def state(uc: Uc) -> dict[str, Any]:
    """What a plugin could have left on an engine."""
    return {
        "regions": sorted(uc.mem_regions()),
        "hooks": len(uc._callbacks),
        "windows": len(uc._mmio_callbacks),
        "methods": sorted(vars(uc).keys() & {"emu_start", "emu_stop"}),
        "context": bytes(uc.context_save())[_CONTEXT_HEADER:],
    }


def clear_on_every_exit(pv: PvMmio) -> None:
    """A callback that holds what it is a callback of."""
    pv.on_userspace(lambda exit_: pv.exits.clear())


class TestDetached:
    def test_the_engine_is_as_it_was(self, any_guest: Guest) -> None:
        uc = any_guest.uc
        any_guest.machine.close()
        before = state(uc)
        with PvMmio(uc, decode=any_guest.pv.decode):
            pass
        assert state(uc) == before

    def test_also_after_a_run_with_exits_and_errors(self, any_guest: Guest, bell: EventFd) -> None:
        guest = any_guest
        guest.pv.ioeventfd(bell, guest.mmio)
        guest.pv.device(guest.mmio + 0x40, 8, Registers())
        guest.run(guest.store(4), guest.load(4, 0x40), guest.store(4, 8), guest.load(2, 8))
        guest.pv.on_userspace(lambda exit_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            guest.run(guest.store(4, 8))
        guest.machine.close()
        left = state(guest.uc)
        assert (left["hooks"], left["windows"], left["methods"]) == (0, 0, [])
        assert [first for first, _, _ in left["regions"]] == sorted(
            first for first, _ in guest.machine.platform.ram
        )

    def test_accesses_to_nowhere_are_errors_again(self, any_guest: Guest) -> None:
        guest = any_guest
        guest.run(guest.store(4), guest.load(4))
        guest.machine.close()
        for line, error in ((guest.store(4), "WRITE_UNMAPPED"), (guest.load(4), "READ_UNMAPPED")):
            with pytest.raises(UcError, match=error):
                guest.run(line)
        start, end = guest.place(guest.count, guest.count)
        guest.counter = 0
        guest.uc.emu_start(start, end)
        assert (guest.pc, guest.counter) == (end, 2)
        assert guest.pv.exits.total == 2, "the exits stay readable"

    def test_the_users_own_hooks_and_regions_are_left_alone(self, guest: Guest) -> None:
        calls: list[str] = []
        mine = guest.mmio + 0x10_0000
        guest.uc.mmio_map(mine, 0x1000, None, None, lambda *_: calls.append("mmio"), None)
        guest.uc.hook_add(UC_HOOK_CODE, lambda *_: calls.append("code"))
        guest.aim(mine)
        guest.run(guest.store(4))
        guest.machine.close()
        guest.run(guest.store(4))
        assert calls == ["code", "mmio"] * 2
        assert len(guest.pv.exits) == 0

    def test_twice(self, guest: Guest) -> None:
        guest.pv.detach()
        guest.pv.detach()
        guest.machine.close()
        assert "detached" in repr(guest.pv)

    def test_in_a_callback_it_is_refused_and_the_guest_is_unharmed(self, guest: Guest) -> None:
        guest.pv.on_userspace(lambda exit_: guest.pv.detach())
        with pytest.raises(PvMmioError, match=r"running.*detach after emu_start"):
            guest.run(guest.store(4))
        guest.pv.on_userspace(lambda exit_: None)
        guest.run(guest.store(4, 8))
        assert routes(guest)[-1] == "userspace"
        guest.pv.detach()

    def test_in_a_hook_of_the_users(self, guest: Guest) -> None:
        guest.uc.hook_add(UC_HOOK_CODE, lambda *_: guest.pv.detach())
        with pytest.raises(PvMmioError, match="running"):
            guest.run(guest.count)
        guest.pv.detach()

    def test_from_another_thread_while_the_guest_runs(self, guest: Guest) -> None:
        errors: list[BaseException] = []
        start, _ = guest.place(guest.store(4), guest.loop(guest.count))

        def detach() -> None:
            try:
                guest.pv.detach()
            except PvMmioError as error:
                errors.append(error)
            guest.uc.emu_stop()

        thread = threading.Thread(target=detach)
        guest.pv.on_userspace(lambda exit_: thread.start())
        guest.uc.emu_start(start, 0)
        thread.join()
        assert len(errors) == 1


class TestAttached:
    def test_twice_is_refused(self, guest: Guest) -> None:
        before = state(guest.uc)
        with pytest.raises(PvMmioError, match="another PvMmio"):
            PvMmio(guest.uc)
        assert state(guest.uc) == before
        guest.run(guest.store(4))
        assert len(guest.pv.exits) == 1

    def test_after_the_engine_has_run(self, any_guest: Guest, bell: EventFd) -> None:
        """Blocks that were translated before there was any hook take their exits all the same."""
        guest = any_guest
        guest.machine.close()
        guest.aim(guest.ram)
        start, end = guest.place(guest.store(4), guest.load(4), guest.count)
        guest.uc.emu_start(start, end)
        guest.aim(guest.mmio)
        with pytest.raises(UcError):
            guest.uc.emu_start(start, end)
        with PvMmio(guest.uc, decode=guest.pv.decode) as pv:
            pv.ioeventfd(bell, guest.mmio)
            for _ in range(3):
                guest.uc.emu_start(start, end)
            assert pv.exits.total == 6
        assert bell.read() >= 3

    def test_ports_after_the_engine_has_run(self, make_guest: MakeGuest, bell: EventFd) -> None:
        guest = make_guest("x86")
        guest.machine.close()
        start, end = guest.place("out 0x50, al", "in al, 0x51")
        guest.uc.emu_start(start, end)
        with PvMmio(guest.uc) as pv:
            pv.ioeventfd(bell, 0x50, pio=True)
            pv.device(0x51, 1, Registers(0x42), pio=True)
            guest.uc.emu_start(start, end)
        assert bell.read() == 1
        assert guest.value & 0xFF == 0x42
        guest.uc.emu_start(start, end)
        assert bell.count == 0

    def test_again_on_the_same_engine(self, guest: Guest, bell: EventFd) -> None:
        guest.pv.ioeventfd(bell, guest.mmio)
        guest.machine.close()
        for decode in ("assist", "software", "assist"):
            with PvMmio(guest.uc, decode=decode) as pv:
                guest.run(guest.store(4))
                assert [str(exit_.route) for exit_ in pv.exits] == ["userspace"], "nothing is registered"

    def test_watchers_see_every_guest(self, make_guest: MakeGuest) -> None:
        seen: list[PvMmio] = []
        plugin_module.on_attach.append(seen.append)
        try:
            guests = [make_guest(arch) for arch in ("x86", "ppc")]
        finally:
            plugin_module.on_attach.remove(seen.append)
        make_guest("arm64")
        assert seen == [guest.pv for guest in guests]

    def test_words_that_there_are_not(self, guest: Guest) -> None:
        guest.machine.close()
        for options in ({"stage2": "epb"}, {"decode": "hardware"}, {"profile": "rfc"}):
            with pytest.raises(ValueError, match=r"'(epb|hardware|rfc)': this engine takes '"):
                PvMmio(guest.uc, **options)
        with pytest.raises(ValueError, match="0 or more"):
            PvMmio(guest.uc, exit_limit=-1)
        assert state(guest.uc)["methods"] == []

    @pytest.mark.parametrize(("arch", "stage2"), [("x86", "hv"), ("arm64", "ept"), ("ppc", "stage2")])
    def test_the_stage_2_of_another_architecture(self, make_guest: MakeGuest, arch: str, stage2: str) -> None:
        with pytest.raises(ValueError, match=f"stage2='{stage2}'"):
            make_guest(arch, stage2=stage2)

    def test_an_architecture_that_no_folder_serves(self) -> None:
        uc = Uc(UC_ARCH_MIPS, UC_MODE_MIPS32 | UC_MODE_BIG_ENDIAN)
        with pytest.raises(UnsupportedArchitecture, match=r"x86, arm64, ppc"):
            PvMmio(uc)
        assert vars(uc).keys().isdisjoint({"emu_start", "emu_stop"})

    def test_an_exception_in_the_with_block_detaches(self, guest: Guest) -> None:
        guest.machine.close()
        with pytest.raises(RuntimeError, match="mine"), PvMmio(guest.uc):
            raise RuntimeError("mine")
        assert state(guest.uc)["hooks"] == 0

    def test_repr_tells_what_it_is(self, guest: Guest) -> None:
        guest.run(guest.store(4))
        text = repr(guest.pv)
        for word in (guest.arch, guest.pv.stage2, guest.pv.decode, "linux", "attached", "userspace 1"):
            assert word in text
        assert guest.arch in repr(guest.machine)


class TestNothingIsLeft:
    @pytest.mark.skipif(not os.path.isdir(DESCRIPTORS), reason="no /proc")
    def test_rounds_leak_no_descriptors_threads_or_hooks(self, guest: Guest) -> None:
        guest.machine.close()
        start, end = guest.place(guest.store(4), guest.load(4, 8))

        def one() -> None:
            with PvMmio(guest.uc, decode=guest.pv.decode) as pv, EventFd(blocking=False) as bell:
                pv.ioeventfd(bell, guest.mmio)
                pv.device(guest.mmio + 8, 8, Registers())
                guest.uc.emu_start(start, end)
                assert bell.count == 1

        one()
        descriptors, threads = len(os.listdir(DESCRIPTORS)), threading.active_count()
        before = state(guest.uc)
        for _ in range(300):
            one()
        assert len(os.listdir(DESCRIPTORS)) == descriptors
        assert threading.active_count() == threads
        after = state(guest.uc)
        assert {k: v for k, v in after.items() if k != "context"} == {
            k: v for k, v in before.items() if k != "context"
        }

    def test_timeouts_leave_no_threads(self, guest: Guest) -> None:
        threads = threading.active_count()
        for _ in range(10):
            guest.run(guest.loop(guest.store(4)), timeout=1_000)
        assert threading.active_count() == threads

    @pytest.mark.parametrize("detached", [True, False])
    def test_engine_and_plugin_are_collected(self, arch: str, decode: Decode, detached: bool) -> None:
        guest = Guest(arch, decode=decode)
        clear_on_every_exit(guest.pv)
        guest.run(guest.store(4), guest.load(4))
        watched = [weakref.ref(guest.uc), weakref.ref(guest.pv), weakref.ref(guest)]
        if detached:
            guest.machine.close()
        del guest
        gc.collect()
        assert [ref() for ref in watched] == [None] * 3

    def test_detached_it_holds_no_eventfd(self, guest: Guest) -> None:
        with EventFd(blocking=False) as bell:
            guest.pv.ioeventfd(bell, guest.mmio)
            guest.pv.ioeventfd(bell, guest.mmio + 8, 4)
            guest.machine.close()
            assert len(guest.pv.vm.ioeventfds) == 0


class TestComputeOnly:
    """A guest that touches no device is none of the plugin's business."""

    def test_no_hook_of_ours_is_called(
        self, arch: str, decode: Decode, make_guest: MakeGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        engine = next(cls for cls in type(make_guest(arch).uc).__mro__ if "hook_add" in vars(cls))
        original = engine.hook_add

        def counted(uc: Uc, kind: int, callback: Callable[..., Any], *rest: Any) -> int:
            def called(*arguments: Any) -> Any:
                calls.append(callback.__name__)
                return callback(*arguments)

            handle: int = original(uc, kind, called, *rest)
            return handle

        monkeypatch.setattr(engine, "hook_add", counted)
        guest = make_guest(arch, decode=decode)
        guest.aim(guest.ram)
        stub = [guest.store(4), guest.load(4), guest.count]
        guest.run(*stub * 50)
        assert calls == []
        guest.aim(guest.mmio)
        guest.run(guest.store(4))
        assert calls == ["_trap"], "and this test would have seen it"

    def test_no_exits_and_no_regions(self, any_guest: Guest) -> None:
        guest = any_guest
        regions = sorted(guest.uc.mem_regions())
        seen: list[object] = []
        guest.uc.hook_add(UC_HOOK_CODE, lambda *_: seen.append(sorted(guest.uc.mem_regions()) == regions))
        guest.aim(guest.ram)
        guest.run(guest.store(4), guest.load(4), guest.count)
        assert all(seen)
        assert len(seen) == 3
        assert guest.pv.exits.total == 0


def test_exit_limit_keeps_the_last_and_counts_all(make_guest: MakeGuest, decode: Decode) -> None:
    guest = make_guest("arm64", decode=decode, exit_limit=2)
    guest.run(*(guest.store(4, at) for at in range(0, 20, 4)))
    assert [exit_.address - guest.mmio for exit_ in guest.pv.exits] == [12, 16]
    assert (guest.pv.exits.total, guest.pv.exits.lost) == (5, 3)
    assert guest.pv.exits.steps.userspace == 5
    nothing = make_guest("arm64", decode=decode, exit_limit=0)
    nothing.run(nothing.store(4))
    assert (len(nothing.pv.exits), nothing.pv.exits.total) == (0, 1)


def test_page_size_is_the_coalesced_rings(make_guest: MakeGuest) -> None:
    guest = make_guest("ppc")
    guest.machine.close()
    for page_size, entries in ((4096, 169), (16384, 681)):
        with PvMmio(guest.uc, page_size=page_size) as pv:
            pv.coalesced(guest.mmio, 0x1000)
            guest.run(*(guest.store(4) for _ in range(entries + 2)))
            assert len(pv.drain_coalesced()) == entries
            assert pv.exits.steps.userspace == 2


def test_a_later_callback_takes_the_place_of_an_earlier_one(guest: Guest) -> None:
    seen: list[str] = []

    @guest.pv.on_userspace
    def first(exit_: UserspaceExit) -> None:
        seen.append("first")

    guest.run(guest.store(4))

    @guest.pv.on_userspace
    def second(exit_: UserspaceExit) -> None:
        seen.append("second")

    guest.run(guest.store(4))
    assert seen == ["first", "second"]
    assert first.__name__ == "first"


def test_the_engine_of_the_users_own_class_and_mode() -> None:
    """Not made by `Machine`: a bare engine, a page of RAM, and an unmapped hook of the user's elsewhere."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("c6042500000100 01"))  # mov byte ptr [0x10000], 1
    calls: list[int] = []
    uc.hook_add(UC_HOOK_MEM_WRITE_UNMAPPED, lambda *a: bool(calls.append(a[2])), None, 0x9_0000, 0x9_FFFF)
    with PvMmio(uc) as pv:
        uc.emu_start(0x1000, 0x1008)
        assert [(e.address, e.accesses[0].data) for e in pv.exits] == [(0x10000, b"\1")]
    assert calls == []
    assert unicorn_const.UC_API_MAJOR == 2
