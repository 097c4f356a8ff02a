"""EventFd between threads and in event loops. Both backends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import selectors
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import COUNT_MAX, LONG, WRITE_MAX, backend_fixture, open_descriptors

backend = backend_fixture()

SHORT = 0.05  # seconds for something that must not happen


@contextlib.contextmanager
def running(function, *arguments):
    """A future for ``function`` in a thread of its own, which has had the time to start waiting."""
    future = Future()

    def run():
        try:
            future.set_result(function(*arguments))
        except Exception as raised:
            future.set_exception(raised)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    time.sleep(SHORT)
    yield future
    thread.join(LONG)
    assert not thread.is_alive()


# -- waiting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [lambda efd: efd.read(), lambda efd: efd.wait(), lambda efd: efd.wait(LONG)])
@pytest.mark.parametrize("through", ["eventfd", "dup", "context"])
def test_signal_ends_a_wait(wait, through):
    with EventFd() as efd, efd.dup() as twin, running(wait, efd) as future:
        assert not future.done()
        context = eventfd_context(efd)
        {"eventfd": efd, "dup": twin, "context": context}[through].signal()
        assert future.result(LONG) == 1
        assert efd.count == 0
        context.put()


def test_write_ends_a_wait_with_the_whole_value():
    with EventFd() as efd, running(efd.read) as future:
        efd.write(0)
        time.sleep(SHORT)
        assert not future.done()
        efd.write(77)
        assert future.result(LONG) == 77


def test_wait_in_nonblocking_mode_waits():
    with EventFd(blocking=False) as efd, running(efd.wait, LONG) as future:
        assert not future.done()
        efd.signal()
        assert future.result(LONG) == 1


def test_a_wait_outlives_its_eventfd():
    """As read(2): closing the descriptor does not end it, and it still takes the next signal."""
    efd = EventFd()
    twin = efd.dup()
    with running(efd.wait, LONG) as future:
        efd.close()
        time.sleep(SHORT)
        assert not future.done()
        twin.signal()
        assert future.result(LONG) == 1
    twin.close()


def test_a_wait_leaves_the_number_of_a_closed_eventfd_to_its_next_owner():
    gc.collect()
    before = open_descriptors()
    efd = EventFd()
    twin = efd.dup()
    with running(efd.wait, LONG) as future:
        efd.close()
        with EventFd(5) as stranger:
            twin.signal()
            assert future.result(LONG) == 1
            assert stranger.count == 5
    twin.close()
    assert open_descriptors() <= before


def test_one_signal_ends_one_of_two_waits():
    with EventFd() as efd, running(efd.wait, LONG) as one, running(efd.wait, LONG) as other:
        efd.signal()
        deadline = time.monotonic() + LONG
        while not (one.done() or other.done()) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(SHORT)
        assert one.done() != other.done()
        efd.signal()
        assert one.result(LONG) + other.result(LONG) == 2


def test_semaphore_releases_one_waiter_per_unit():
    with EventFd(semaphore=True) as efd, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(efd.read) for _ in range(4)]
        time.sleep(SHORT)
        efd.write(3)
        time.sleep(SHORT)
        assert sum(future.done() for future in futures) == 3
        efd.signal()
        assert [future.result(LONG) for future in futures] == [1] * 4
        assert efd.count == 0


def test_stolen_count_does_not_shorten_a_wait(monkeypatch):
    """Every wake-up finds the count gone: the wait goes on to its time-out, and returns 0 and no earlier."""
    with EventFd() as efd:
        context = eventfd_context(efd)
        kind = type(context)
        wait_readable = kind.wait_readable

        def robbed(self, fd, timeout):
            efd.signal()
            wait_readable(self, fd, timeout)
            assert efd.wait(0) == 1

        monkeypatch.setattr(kind, "wait_readable", robbed)
        begin = time.monotonic()
        assert efd.wait(0.05) == 0
        assert 0.05 <= time.monotonic() - begin < 5
        context.put()


def test_signal_between_the_look_and_the_wait_is_not_missed(monkeypatch):
    with EventFd() as efd:
        context = eventfd_context(efd)
        kind = type(context)
        wait_readable = kind.wait_readable

        def late(self, fd, timeout):
            context.signal()
            wait_readable(self, fd, timeout)

        monkeypatch.setattr(kind, "wait_readable", late)
        with running(efd.wait) as future:
            assert future.result(LONG) == 1
        context.put()


@pytest.mark.parametrize("timeout", [0.0009, 0.0209])
def test_waiting_is_not_polling(monkeypatch, timeout):
    with EventFd() as efd:
        context = eventfd_context(efd)
        kind = type(context)
        wait_readable = kind.wait_readable
        calls = []

        def counted(self, fd, timeout):
            calls.append(timeout)
            wait_readable(self, fd, timeout)

        monkeypatch.setattr(kind, "wait_readable", counted)
        assert efd.wait(timeout) == 0
        assert len(calls) <= 3
        context.put()


# -- a full count ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [0, 1, 5])
@pytest.mark.parametrize("value", [1, 2**40, WRITE_MAX])
def test_write_that_does_not_fit_waits_for_a_reader(signals, value):
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        for _ in range(signals):
            efd.signal()
        with running(efd.write, value) as future:
            assert not future.done()
            assert efd.read() == (COUNT_MAX if signals else WRITE_MAX)
            future.result(LONG)
        assert efd.read() == value


def test_reader_wakes_a_waiting_write_at_once(monkeypatch):
    """The periodic look is only for readers elsewhere."""
    monkeypatch.setattr("pvmmio_uc._eventfd_context._ROOM_RECHECK", 2 * LONG)
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        with running(efd.write, 1) as future:
            assert efd.read() == WRITE_MAX
            future.result(LONG)


def test_write_waits_until_all_of_it_fits():
    with EventFd(semaphore=True) as efd:
        efd.write(WRITE_MAX - 1)
        with running(efd.write, 3) as future:
            efd.read()
            time.sleep(SHORT)
            assert not future.done()
            efd.read()
            future.result(LONG)
        assert efd.count == WRITE_MAX


def test_waiting_write_ends_when_its_eventfd_is_closed():
    efd = EventFd()
    twin = efd.dup()
    efd.write(WRITE_MAX)
    with running(efd.write, 1) as future:
        efd.close()
        with pytest.raises(ValueError, match="closed"):
            future.result(LONG)
    twin.close()


def test_signals_do_not_wait_while_a_write_does():
    with EventFd() as efd:
        context = eventfd_context(efd)
        efd.write(WRITE_MAX)
        with running(efd.write, 1) as writer:
            with running(context.signal) as signaller:
                signaller.result(LONG)
            with running(efd.signal) as signaller:
                signaller.result(LONG)
            assert efd.read() == COUNT_MAX
            writer.result(LONG)
        assert efd.read() == 1
        context.put()


# -- event loops -----------------------------------------------------------------------------------------


def test_asyncio_add_reader():
    async def main():
        loop = asyncio.get_running_loop()
        got = []
        done = asyncio.Event()

        def ring():
            got.append(efd.read())
            if sum(got) == 20:
                done.set()

        loop.add_reader(efd, ring)
        thread = threading.Thread(target=lambda: [efd.signal() or time.sleep(0.001) for _ in range(20)])
        thread.start()
        await asyncio.wait_for(done.wait(), LONG)
        thread.join()
        loop.remove_reader(efd)
        return got

    with EventFd(blocking=False) as efd:
        got = asyncio.run(main())
        assert sum(got) == 20
        assert 0 not in got


def test_selector_tells_many_doorbells_apart():
    with contextlib.ExitStack() as stack:
        bells = [stack.enter_context(EventFd(blocking=False)) for _ in range(8)]
        selector = stack.enter_context(selectors.DefaultSelector())
        for index, bell in enumerate(bells):
            selector.register(bell, selectors.EVENT_READ, index)
        for index in (3, 5, 3):
            threading.Timer(0.01, bells[index].signal).start()
            assert [key.data for key, _ in selector.select(LONG)] == [index]
            assert bells[index].read() == 1


# -- stress ----------------------------------------------------------------------------------------------


def _drain(efd, total, taken, lock, done):
    """Read until all readers together have ``total``."""
    while not done.is_set():
        got = efd.wait(0.02)
        with lock:
            taken.append(got)
            if sum(taken) >= total:
                done.set()


@pytest.mark.parametrize("semaphore", [True, False])
def test_no_signal_is_lost_or_invented(semaphore):
    writers, readers, each = 4, 3, 400 if semaphore else 3000
    with EventFd(semaphore=semaphore) as efd, ThreadPoolExecutor(writers + readers) as pool:
        descriptors = [efd.dup() for _ in range(readers)]
        context = eventfd_context(efd)
        taken, lock, done = [], threading.Lock(), threading.Event()
        drains = [
            pool.submit(_drain, descriptors[i], writers * each, taken, lock, done) for i in range(readers)
        ]
        rings = [pool.submit(lambda: [context.signal() for _ in range(each)]) for _ in range(writers - 2)]
        rings.append(pool.submit(lambda: [efd.signal() for _ in range(each)]))
        rings.append(pool.submit(lambda: [efd.write(1) for _ in range(each)]))
        for future in rings:
            future.result(2 * LONG)
        finished = done.wait(LONG)
        done.set()
        for future in drains:
            future.result(LONG)
        assert finished
        assert sum(taken) == writers * each
        assert efd.count == 0
        assert not semaphore or max(taken) == 1
        for descriptor in descriptors:
            descriptor.close()
        context.put()


def test_no_signal_is_lost_at_the_end_of_the_count():
    """Signals meet a full count, and a reader who empties it: after a read they count from 0 again."""
    rounds, each = 60, 50
    with EventFd() as efd, ThreadPoolExecutor(1) as pool:
        context = eventfd_context(efd)
        for _ in range(rounds):
            efd.write(WRITE_MAX)
            future = pool.submit(lambda: [context.signal() for _ in range(each)])
            first = efd.read()
            future.result(LONG)
            rest = efd.wait(0)
            # the first signal before the read makes 2**64-1 of it, further ones stick
            assert first in (WRITE_MAX, COUNT_MAX)
            assert rest == each if first == WRITE_MAX else rest < each
        context.put()


def test_last_put_and_descriptors_of_strangers():
    """References come and go while a thread signals: no signal ends up in another eventfd."""
    stop = threading.Event()

    def ring():
        while not stop.is_set():
            with contextlib.suppress(ValueError):  # between two references
                context.signal()

    with EventFd() as efd:
        context = eventfd_context(efd)
        with running(ring):
            for _ in range(300):
                context.put()
                with EventFd() as stranger:
                    eventfd_context(efd)
                    assert stranger.count == 0
            stop.set()
        context.put()
