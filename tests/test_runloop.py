"""Running, stopping and running on: emu_start and emu_stop behave as if no exit had come between."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from unicorn import UcError
from unicorn.unicorn_const import UC_HOOK_BLOCK, UC_HOOK_CODE, UC_HOOK_MEM_WRITE

from pvmmio_uc import EventFd, PvMmioError, UserspaceExit
from pvmmio_uc.plugin import Decode

from .conftest import MakeGuest
from .plugin_guests import Guest, Raising, Registers, routes

SOON = 10.0
"""Seconds after which a test gives up on another thread."""


class Stopper:
    """A user space that stops the guest at its ``n``-th exit."""

    def __init__(self, guest: Guest, n: int = 1, answer: int = 0) -> None:
        self.guest, self.n, self.answer, self.exits = guest, n, answer, 0

    def __call__(self, exit_: UserspaceExit) -> int:
        self.exits += 1
        if self.exits == self.n:
            self.guest.uc.emu_stop()
        return self.answer


class TestStopInACallback:
    def test_a_store_is_over_and_is_not_repeated(self, any_guest: Guest) -> None:
        guest = any_guest
        for size in guest.sizes:
            stopper = Stopper(guest)
            guest.pv.on_userspace(stopper)
            guest.counter = 0
            start, end = guest.place(guest.nop, guest.store(size), guest.count, guest.count)
            behind = start + guest.length(guest.nop) + guest.length(guest.store(size))
            guest.place(guest.nop, guest.store(size), guest.count, guest.count)
            guest.uc.emu_start(start, end)
            assert (guest.pc, guest.counter) == (behind, 0), size
            guest.uc.emu_start(guest.pc, end)
            assert (guest.pc, guest.counter) == (end, 2)
            assert stopper.exits == (2 if size == 8 and guest.pv.decode == "assist" else 1)

    def test_a_load_has_its_value_and_is_not_repeated(self, any_guest: Guest) -> None:
        guest = any_guest
        for size in guest.sizes:
            answer = 0x7172_7374_7576_7778
            stopper = Stopper(guest, answer=answer)
            guest.pv.on_userspace(stopper)
            guest.counter = guest.value = 0
            start, end = guest.place(guest.load(size), guest.count)
            guest.uc.emu_start(start, end)
            assert guest.pc != end
            halves = size == 8 and guest.pv.decode == "assist"
            low = answer & 0xFFFF_FFFF
            assert guest.value == (low << 32 | low if halves else answer & ((1 << 8 * size) - 1)), size
            guest.uc.emu_start(guest.pc, end)
            assert (guest.pc, guest.counter) == (end, 1)
            assert stopper.exits == 1 + halves

    def test_an_unaligned_store_in_pieces_is_over_too(self, any_guest: Guest) -> None:
        guest = any_guest
        stopper = Stopper(guest)
        guest.pv.on_userspace(stopper)
        start, end = guest.place(guest.store(4, 1), guest.count)
        guest.uc.emu_start(start, end)
        exits = stopper.exits
        guest.uc.emu_start(guest.pc, end)
        assert guest.pc == end
        assert stopper.exits == exits == (4 if guest.pv.decode == "assist" else 1)

    def test_the_base_register_of_an_update_form_has_moved(
        self, make_guest: MakeGuest, decode: Decode
    ) -> None:
        for arch, line, registers in (
            ("arm64", "ldr w0, [x1], #8", ("x1",)),
            ("arm64", "str w0, [x1, #8]!", ("x1",)),
            ("ppc", "stwu 3, 8(4)", ("r4",)),
            ("ppc", "lwzu 3, 8(4)", ("r4",)),
        ):
            guest = make_guest(arch, decode=decode)
            stopper = Stopper(guest, answer=7)
            guest.pv.on_userspace(stopper)
            start, end = guest.place(line, guest.nop)
            guest.uc.emu_start(start, end)
            guest.uc.emu_start(guest.pc, end)
            assert [guest.machine[name] - guest.mmio for name in registers] == [8]
            assert stopper.exits == 1

    def test_a_loop_stopped_again_and_again_loses_nothing(self, guest: Guest, bell: EventFd) -> None:
        guest.pv.ioeventfd(bell, guest.mmio, 4)
        stops = 0

        @guest.pv.on_userspace
        def stop(exit_: UserspaceExit) -> None:
            nonlocal stops
            stops += 1
            guest.uc.emu_stop()

        start, _ = guest.place(guest.loop(guest.store(4), guest.store(4, 8), guest.count))
        guest.counter = 0
        pc = start
        for _ in range(20):
            guest.uc.emu_start(pc, 0)
            pc = guest.pc
        assert (bell.read(), stops, guest.counter) == (20, 20, 19)

    def test_a_block_that_runs_on_behind_the_stop_keeps_its_next_store(self, make_guest: MakeGuest) -> None:
        """stmw is a helper of the engine's, which honours a stop only when the block is over."""
        guest = make_guest("ppc", decode="assist")
        seen: list[int] = []

        @guest.pv.on_userspace
        def stop(exit_: UserspaceExit) -> None:
            seen.append(exit_.address - guest.mmio)
            if len(seen) == 1:
                guest.uc.emu_stop()

        start, _ = guest.place("stmw 30, 0(4)", "b 0x1008", guest.nop)
        end = guest.place(guest.store(4, 8), guest.nop, address=start + 8)[1]
        guest.uc.emu_start(start, end)
        guest.uc.emu_start(guest.pc, end)
        assert seen == [0, 4, 8]

    def test_in_a_device_model(self, guest: Guest) -> None:
        class Stopping(Registers):
            def mmio_write(self, offset: int, size: int, value: int) -> None:
                super().mmio_write(offset, size, value)
                guest.uc.emu_stop()

        device = Stopping()
        guest.pv.device(guest.mmio, 0x10, device)
        start, end = guest.place(guest.store(), guest.store(), guest.store())
        for runs in (1, 2, 3):
            guest.uc.emu_start(start if runs == 1 else guest.pc, end)
            assert len(device.written) == runs
        assert guest.pc == end

    def test_in_a_port_callback(self, make_guest: MakeGuest, decode: Decode) -> None:
        """The engine runs on to the end of its block; what is there is not lost and not repeated."""
        guest = make_guest("x86", decode=decode)
        stopper = Stopper(guest)
        guest.pv.on_userspace(stopper)
        start, end = guest.place("out 0x50, al", guest.store(), guest.store(), guest.count)
        guest.counter = 0
        guest.uc.emu_start(start, end)
        if guest.pc != end:
            guest.uc.emu_start(guest.pc, end)
        while guest.pc != end:
            guest.uc.emu_start(guest.pc, end)
        assert (stopper.exits, guest.counter) == (3, 1)


class TestStopFromAnotherThread:
    def start_once_running(self, guest: Guest, action: Callable[[], object]) -> threading.Thread:
        running = threading.Event()
        guest.pv.on_userspace(lambda exit_: running.set())  # type: ignore[func-returns-value]

        def act() -> None:
            if running.wait(SOON):
                action()

        thread = threading.Thread(target=act)
        thread.start()
        return thread

    def test_a_loop_on_a_device_is_stopped_between_two_rounds(self, guest: Guest) -> None:
        guest.counter = 0
        start, _ = guest.place(guest.loop(guest.store(4), guest.count))
        for _ in range(10):
            thread = self.start_once_running(guest, lambda: (time.sleep(0.001), guest.uc.emu_stop()))
            guest.uc.emu_start(start if guest.counter == 0 else guest.pc, 0)
            thread.join(SOON)
        assert guest.pv.exits.total - guest.counter in (0, 1), "no access was repeated or lost"

    def test_a_stop_while_the_engine_is_out_on_an_exit_or_on_its_way_back(self, guest: Guest) -> None:
        """Asked for somewhere between the exit's callback and the guest's endless loop."""
        start, _ = guest.place(guest.store(4), guest.loop(guest.count))
        for delay in range(25):
            end_of_delay = delay * 10e-6

            def stop(seconds: float = end_of_delay) -> None:
                until = time.perf_counter() + seconds
                while time.perf_counter() < until:
                    pass
                guest.uc.emu_stop()

            thread = self.start_once_running(guest, stop)
            began = time.monotonic()
            guest.uc.emu_start(start, 0, int(SOON * 1e6))
            assert time.monotonic() - began < SOON / 2, "the stop was lost"
            thread.join(SOON)

    def test_a_callback_may_wait_for_the_thread_that_stops(self, guest: Guest) -> None:
        thread = threading.Thread(target=guest.uc.emu_stop)

        @guest.pv.on_userspace
        def wait(exit_: UserspaceExit) -> None:
            thread.start()
            thread.join(SOON)

        start, end = guest.place(guest.store(4), guest.count)
        guest.counter = 0
        guest.uc.emu_start(start, end)
        assert not thread.is_alive()
        assert (guest.pc == end, guest.counter) == (False, 0)
        assert len(guest.pv.exits) == 1

    def test_a_stop_before_the_run_stops_nothing(self, guest: Guest) -> None:
        guest.uc.emu_stop()
        guest.run(guest.store(4), guest.count)
        assert len(guest.pv.exits) == 1


class TestTimeout:
    def test_across_exits_it_ends_the_run_and_no_access_is_repeated(self, guest: Guest) -> None:
        guest.counter = 0
        start, _ = guest.place(guest.loop(guest.store(4), guest.count))
        guest.uc.emu_start(start, 0, 20_000)
        for _ in range(8):
            began = time.monotonic()
            guest.uc.emu_start(guest.pc, 0, 20_000)
            assert time.monotonic() - began < SOON / 2
        assert guest.counter > 0
        assert guest.pv.exits.total - guest.counter in (0, 1)

    def test_a_guest_that_computes(self, guest: Guest) -> None:
        began = time.monotonic()
        guest.run(guest.loop(guest.count), timeout=20_000)
        assert 0.015 < time.monotonic() - began < SOON / 2

    def test_one_that_is_never_reached(self, guest: Guest) -> None:
        guest.run(guest.store(4), guest.store(4), guest.count, timeout=int(SOON * 1e6))
        assert len(guest.pv.exits) == 2

    def test_a_slow_callback_uses_it_up(self, guest: Guest) -> None:
        guest.pv.on_userspace(lambda exit_: time.sleep(0.2))  # type: ignore[func-returns-value]
        start, end = guest.place(guest.store(4), guest.store(4, 4), guest.count)
        guest.uc.emu_start(start, end, 100_000)
        assert len(guest.pv.exits) == 1
        guest.uc.emu_start(guest.pc, end)
        assert len(guest.pv.exits) == 2
        assert guest.pc == end


class TestCount:
    @pytest.mark.parametrize("count", range(1, 8))
    def test_an_instruction_that_exits_counts_once(self, any_guest: Guest, count: int) -> None:
        guest = any_guest
        lines = [guest.count, guest.store(4), guest.count, guest.load(4), guest.count]
        lengths = [guest.length(line) for line in lines]
        start, end = guest.place(*lines)
        guest.counter = 0
        guest.uc.emu_start(start, end, 0, count)
        done = min(count, len(lines))
        assert guest.pc == start + sum(lengths[:done])
        assert guest.counter == (done + 1) // 2
        assert len(guest.pv.exits) == done // 2
        guest.uc.emu_start(guest.pc, end)
        assert (guest.pc, guest.counter, len(guest.pv.exits)) == (end, 3, 2)

    def test_step_by_step_over_an_access(self, any_guest: Guest) -> None:
        guest = any_guest
        start, end = guest.place(guest.store(4), guest.load(4), guest.store(4, 4), guest.count)
        guest.counter = 0
        pc = start
        for steps in range(1, 5):
            guest.uc.emu_start(pc, 0, 0, 1)
            pc = guest.pc
            assert len(guest.pv.exits) == min(steps, 3)
        assert (pc, guest.counter) == (end, 1)

    def test_an_endless_loop_on_a_device(self, guest: Guest) -> None:
        guest.counter = 0
        start, _ = guest.place(guest.loop(guest.store(4), guest.count))
        guest.uc.emu_start(start, 0, 0, 300)
        assert (len(guest.pv.exits), guest.counter) == (100, 100)

    def test_it_leaves_no_hook_behind(self, guest: Guest) -> None:
        before = len(guest.uc._callbacks)
        guest.run(guest.store(4), guest.count, guest.count, count=2)
        assert len(guest.uc._callbacks) == before


def test_until_right_behind_an_access(any_guest: Guest) -> None:
    guest = any_guest
    guest.counter = 0
    for line in (guest.store(4), guest.load(4)):
        start, end = guest.place(line)
        guest.place(guest.count, address=end)
        guest.uc.emu_start(start, end)
        assert (guest.pc, guest.counter) == (end, 0)


def test_until_is_the_first_instruction_of_a_loop(any_guest: Guest) -> None:
    """A run ends when it comes back to ``until``, also out of an exit."""
    guest = any_guest
    lines = (guest.count, guest.store(4))
    first = guest.length(guest.count)
    start, _ = guest.place(guest.loop(*lines))
    guest.counter = 0
    guest.uc.emu_start(start + first, start)
    assert (guest.pc, guest.counter, len(guest.pv.exits)) == (start, 0, 1)


class TestNested:
    """A callback may run the engine for something else; the interrupted run goes on where it was."""

    @pytest.mark.parametrize("what", ["store", "load"])
    def test_a_run_inside_a_callback(self, any_guest: Guest, what: str) -> None:
        guest = any_guest
        inner = guest.place(guest.count, guest.count, address=guest.ram - 0x2000)

        @guest.pv.on_userspace
        def other_work(exit_: UserspaceExit) -> int:
            guest.uc.emu_start(*inner)
            return 0x42

        guest.counter = 0
        start, end = guest.place(getattr(guest, what)(1), guest.count)
        guest.uc.emu_start(start, end)
        assert (guest.pc, guest.counter) == (end, 3)
        if what == "load":
            assert guest.value & 0xFF == 0x42

    def test_the_inner_run_may_exit_and_stop_by_itself(self, any_guest: Guest) -> None:
        guest = any_guest
        inner = guest.place(guest.store(1, 0x10), guest.count, address=guest.ram - 0x2000)
        seen: list[int] = []

        @guest.pv.on_userspace
        def other_work(exit_: UserspaceExit) -> None:
            seen.append(exit_.address - guest.mmio)
            if exit_.address == guest.mmio:
                guest.uc.emu_start(*inner)
            else:
                guest.uc.emu_stop()

        guest.counter = 0
        start, end = guest.place(guest.store(1), guest.count, guest.store(1))
        guest.uc.emu_start(start, end)
        assert (guest.pc, guest.counter) == (end, 1), "the inner run was stopped, the outer one was not"
        assert seen == [0, 0x10, 0, 0x10]

    def test_with_the_context_saved_nothing_of_it_is_left(self, any_guest: Guest) -> None:
        guest = any_guest
        inner = guest.place(guest.count, address=guest.ram - 0x2000)

        @guest.pv.on_userspace
        def other_work(exit_: UserspaceExit) -> None:
            context = guest.uc.context_save()
            guest.uc.emu_start(*inner)
            guest.uc.context_restore(context)

        guest.counter = 0
        start, end = guest.place(guest.store(4), guest.count)
        guest.uc.emu_start(start, end)
        assert (guest.pc, guest.counter) == (end, 1)

    def test_an_error_of_the_inner_run_reaches_the_outer_caller(self, guest: Guest) -> None:
        @guest.pv.on_userspace
        def other_work(exit_: UserspaceExit) -> None:
            if exit_.address == guest.mmio:
                guest.uc.emu_start(guest.mmio, 0)

        with pytest.raises(PvMmioError, match="no memory is mapped"):
            guest.run(guest.store(4))
        guest.pv.on_userspace(lambda exit_: None)
        guest.run(guest.store(4, 8), guest.count)


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


def test_a_nested_stop_and_a_stop_of_the_user_hook(guest: Guest) -> None:
    """A CODE hook that stops at the access itself: it has not happened."""
    start, end = guest.place(guest.nop, guest.store(4), guest.count)
    at = start + guest.length(guest.nop)
    guest.place(guest.nop, guest.store(4), guest.count)
    hook = guest.uc.hook_add(UC_HOOK_CODE, lambda uc, *_: uc.emu_stop(), None, at, at)
    guest.uc.ctl_flush_tb()
    guest.uc.emu_start(start, end)
    assert (guest.pc, len(guest.pv.exits)) == (at, 0)
    guest.uc.hook_del(hook)
    guest.uc.ctl_flush_tb()
    guest.uc.emu_start(guest.pc, end)
    assert (guest.pc, len(guest.pv.exits)) == (end, 1)
