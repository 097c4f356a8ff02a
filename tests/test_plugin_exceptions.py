"""What is raised in a device, a callback, a hook or by Ctrl-C reaches the caller of emu_start as itself."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from unicorn import UcError
from unicorn.unicorn_const import UC_HOOK_BLOCK, UC_HOOK_CODE, UC_HOOK_MEM_WRITE

from pvmmio_uc import UserspaceExit
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import Guest, Raising, routes

SOON = 10.0
"""Seconds after which a test gives up on a guest."""


class Boom(Exception):
    """Nobody else raises it."""


class TestExceptions:
    def usable(self, guest: Guest) -> None:
        """The engine runs on, from elsewhere, and ends where it is told to."""
        guest.pv.on_userspace(lambda exit_: 3)
        guest.aim(guest.ram)
        guest.counter = 0
        start, end = guest.place(guest.count, guest.store(4))
        behind = start + guest.length(guest.count)
        guest.place(guest.count, guest.store(4))
        guest.uc.emu_start(start, behind)
        assert (guest.pc, guest.counter) == (behind, 1)
        guest.uc.emu_start(guest.pc, end)
        assert guest.pc == end
        guest.aim(guest.mmio)
        exits = guest.pv.exits.total
        guest.run(guest.load(4, 0x40), guest.count)
        assert guest.pv.exits.total == exits + 1
        assert guest.value == 3

    @pytest.mark.parametrize("error", [Boom("mine"), KeyboardInterrupt(), SystemExit(3), UcError(1)])
    @pytest.mark.parametrize("what", ["store", "load"])
    def test_of_a_callback(self, guest: Guest, what: str, error: BaseException) -> None:
        def fail(exit_: UserspaceExit) -> None:
            raise error

        guest.pv.on_userspace(fail)
        guest.counter = 0
        with pytest.raises(type(error)) as caught:
            guest.run(getattr(guest, what)(4), guest.count)
        assert caught.value is error
        assert guest.counter == 0
        self.usable(guest)

    @pytest.mark.parametrize("what", ["store", "load"])
    def test_of_a_device(self, any_guest: Guest, what: str) -> None:
        error = Boom("device")
        any_guest.pv.device(any_guest.mmio, 0x10, Raising(error))
        with pytest.raises(Boom) as caught:
            any_guest.run(getattr(any_guest, what)(4))
        assert caught.value is error
        (exit_,) = any_guest.pv.exits
        assert str(exit_.route) == "error"
        assert exit_.note == "Boom: device"
        self.usable(any_guest)

    @pytest.mark.parametrize("kind", [UC_HOOK_MEM_WRITE, UC_HOOK_CODE, UC_HOOK_BLOCK])
    def test_of_a_hook_of_the_users(self, guest: Guest, kind: int) -> None:
        """The binding hides it behind a UcError where the access also faults (unicorn #1386)."""
        error = Boom("hook")

        def fail(*_: object) -> None:
            raise error

        hook = guest.uc.hook_add(kind, fail)
        with pytest.raises(Boom) as caught:
            guest.run(guest.store(4), guest.count)
        assert caught.value is error
        assert len(guest.pv.exits) <= 1
        guest.uc.hook_del(hook)
        guest.uc.ctl_flush_tb()
        self.usable(guest)

    def test_of_a_port_callback(self, make_guest: MakeGuest, decode: Decode) -> None:
        guest = make_guest("x86", decode=decode)
        guest.pv.device(0x50, 4, Raising(Boom("port")), pio=True)
        for line in ("out 0x50, al", "in al, 0x50"):
            with pytest.raises(Boom):
                guest.run(line)
        self.usable(guest)

    def test_the_first_of_several_in_one_access(self, make_guest: MakeGuest) -> None:
        """An unaligned store comes in four pieces under assist: what follows the first is not offered."""
        guest = make_guest("x86", decode="assist")
        calls: list[int] = []

        @guest.pv.on_userspace
        def fail(exit_: UserspaceExit) -> None:
            calls.append(exit_.address)
            raise Boom(str(len(calls)))

        with pytest.raises(Boom, match=r"^1$"):
            guest.run(guest.store(4, 1))
        assert len(calls) == 1

    @pytest.mark.parametrize("decode", ["software", "assist"])
    def test_the_engines_own_errors_stay_the_engines(self, make_guest: MakeGuest, decode: Decode) -> None:
        guest = make_guest("x86", decode=decode)
        guest.run(guest.store(4))
        with pytest.raises(UcError, match="INSN_INVALID"):
            guest.run(guest.store(4), "ud2")
        assert routes(guest).count("userspace") == 2
        self.usable(guest)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals")
class TestInterrupt:
    """Ctrl-C comes as the engine enters a callback, where the binding drops what is raised."""

    @pytest.fixture(autouse=True)
    def ctrl_c(self) -> Iterator[None]:
        """Python's own handler, also where whoever started the tests ignores SIGINT (a background job)."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.fixture(autouse=True)
    def _no_finalizers(self) -> Iterator[None]:
        """What is raised in a finalizer is printed and lost, and earlier tests have left some to do."""
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    def interrupt_soon(self) -> threading.Timer:
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        return timer

    def test_ends_a_guest_that_loops_on_a_device(self, guest: Guest) -> None:
        guest.counter = 0
        start, _ = guest.place(guest.loop(guest.store(4), guest.count))
        for _ in range(3):
            timer = self.interrupt_soon()
            with pytest.raises(KeyboardInterrupt):
                guest.uc.emu_start(start, 0, int(SOON * 1e6))
            timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        guest.run(guest.store(4))

    def test_ends_a_callback_that_waits(self, guest: Guest) -> None:
        guest.pv.on_userspace(lambda exit_: time.sleep(SOON))  # type: ignore[func-returns-value]
        timer = self.interrupt_soon()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            guest.run(guest.store(4))
        assert time.monotonic() - began < SOON / 2
        timer.join()

    def test_a_handler_of_the_users_is_left_alone(self, guest: Guest) -> None:
        seen: list[int] = []

        def mine(number: int, frame: object) -> None:
            seen.append(number)
            guest.uc.emu_stop()

        before = signal.signal(signal.SIGINT, mine)
        try:
            timer = self.interrupt_soon()
            guest.run(guest.loop(guest.store(4)), timeout=int(SOON * 1e6))
            timer.join()
            assert signal.getsignal(signal.SIGINT) is mine
        finally:
            signal.signal(signal.SIGINT, before)
        assert seen == [signal.SIGINT]

    def test_an_engine_that_runs_in_the_callback_of_another(
        self, make_guest: MakeGuest, guest: Guest
    ) -> None:
        inner = make_guest("x86", decode=guest.pv.decode)
        guest.pv.on_userspace(lambda exit_: inner.run(inner.loop(inner.store(4)), timeout=int(SOON * 1e6)))
        timer = self.interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            guest.run(guest.store(4))
        timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_another_thread_runs_a_guest_without_touching_signals(self, guest: Guest) -> None:
        failures: list[BaseException] = []

        def run() -> None:
            try:
                guest.run(guest.store(4), guest.count)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(SOON)
        assert failures == []
        assert routes(guest) == ["userspace"]
