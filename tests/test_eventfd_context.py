"""The eventfd behind the descriptors: who is who, and how long it lives. Both backends."""

from __future__ import annotations

import errno
import gc
import os
import socket
import tempfile

import pytest

from pvmmio_uc.errors import PvMmioError, RegistrationError
from pvmmio_uc.eventfd import EventFd, EventFdContext, eventfd_context

from .eventfd_helpers import COUNT_MAX, WRITE_MAX, backend_fixture, is_open, open_descriptors

backend = backend_fixture()


def context_of(source):
    """The context, without a reference to it."""
    context = eventfd_context(source)
    context.put()
    return context


# -- identity --------------------------------------------------------------------------------------------


def test_every_way_to_one_eventfd_leads_to_one_context():
    with EventFd() as efd, efd.dup() as twin, EventFd.from_fd(twin.fileno()) as adopted:
        raw = os.dup(efd.fileno())
        try:
            sources = [efd, twin, adopted, raw, *(one.fileno() for one in (efd, twin, adopted))]
            contexts = [context_of(source) for source in sources]
        finally:
            os.close(raw)
    assert isinstance(contexts[0], EventFdContext)
    assert all(context is contexts[0] for context in contexts)
    assert len(set(contexts)) == 1


def test_two_eventfds_are_two_contexts():
    with EventFd() as one, EventFd() as other:
        assert context_of(one) is not context_of(other)
        assert context_of(one) != context_of(other)
        assert context_of(one.fileno()) is not context_of(other.fileno())


def test_adopted_descriptor_shares_the_count():
    with EventFd(2) as efd, EventFd.from_fd(efd.fileno()) as adopted:
        efd.close()
        adopted.signal()
        assert adopted.read() == 3


@pytest.mark.parametrize("by_number", [True, False])
def test_reused_descriptor_number_is_another_eventfd(by_number):
    old = EventFd()
    number = old.fileno()
    context = context_of(old)
    old.close()
    with EventFd() as new:
        assert new.fileno() == number
        assert context_of(number if by_number else new) is not context


def test_registered_eventfd_is_not_the_one_that_reuses_its_number():
    """Recorded as closed-descriptor: the new eventfd with the old number does not name the registration."""
    old = EventFd()
    number = old.fileno()
    registered = eventfd_context(old)
    old.close()
    with EventFd() as new:
        assert new.fileno() == number
        assert context_of(new) is not registered
        assert context_of(number) is not registered
        registered.signal()
        assert new.count == 0
    registered.put()


def test_identity_ends_with_the_last_descriptor():
    """Many eventfds one after the other: numbers and kernel ids come back, contexts do not."""
    seen = []
    for _ in range(50):
        efd = EventFd()
        seen.append(context_of(efd.fileno()))
        efd.close()
    assert len(set(map(id, seen))) == 50


def test_a_duplicate_names_the_registration_after_the_original_is_closed():
    """Recorded as dup-descriptor."""
    efd = EventFd()
    twin = efd.dup()
    registered = eventfd_context(efd)
    efd.close()
    assert context_of(twin) is registered
    assert context_of(twin.fileno()) is registered
    registered.put()
    twin.close()


# -- references ------------------------------------------------------------------------------------------


def test_signal_through_a_reference():
    with EventFd() as efd:
        context = eventfd_context(efd)
        for _ in range(5):
            context.signal()
        assert efd.read() == 5
        context.put()


def test_orphan_goes_on_being_signalled():
    """Recorded as orphan: no descriptor is left, and the registration keeps the eventfd alive."""
    efd = EventFd()
    context = eventfd_context(efd)
    efd.close()
    for _ in range(3):
        context.signal()
    with EventFd.from_fd(context.fileno()) as again:
        assert again.read() == 3
        assert context_of(again) is context
    context.put()


def test_reference_outlives_a_collected_eventfd():
    context = eventfd_context(EventFd())
    gc.collect()
    context.signal()
    with EventFd.from_fd(context.fileno()) as again:
        assert again.count == 1
    context.put()


def test_saturation_through_a_reference():
    with EventFd() as efd:
        context = eventfd_context(efd)
        efd.write(WRITE_MAX - 1)
        for _ in range(4):
            context.signal()
        assert efd.read() == COUNT_MAX
        context.signal()
        assert efd.read() == 1
        context.put()


def test_many_references_share_one_descriptor():
    with EventFd() as efd:
        before = open_descriptors()
        contexts = [eventfd_context(efd) for _ in range(10_000)]
        contexts += [eventfd_context(efd.fileno()) for _ in range(100)]
        assert open_descriptors() == before + 1
        assert len({context.fileno() for context in contexts}) == 1
        for context in contexts:
            context.put()
        assert open_descriptors() == before


def test_last_put_closes_the_descriptor_and_only_that():
    with EventFd() as efd:
        context = eventfd_context(efd)
        own = context.fileno()
        assert own != efd.fileno()
        assert eventfd_context(efd) is context
        assert context.fileno() == own
        context.put()
        assert is_open(own)
        context.put()
        assert not is_open(own)
        assert is_open(efd.fileno())


def test_without_a_reference_there_is_nothing_to_signal_or_put():
    with EventFd() as efd:
        context = context_of(efd)
        for use in (context.signal, context.put, context.fileno):
            with pytest.raises(ValueError, match="reference"):
                use()
        assert efd.count == 0
        assert eventfd_context(efd) is context
        context.signal()
        assert efd.read() == 1
        context.put()


def test_no_use_of_a_stranger_after_the_last_put():
    efd = EventFd()
    context = eventfd_context(efd)
    context.put()
    efd.close()
    with EventFd() as stranger:  # gets the numbers that became free
        with pytest.raises(ValueError):
            context.signal()
        assert stranger.count == 0


def test_forgotten_reference_leaks_nothing():
    before = open_descriptors()
    for _ in range(20):
        efd = EventFd()
        eventfd_context(efd)
        efd.close()
        del efd
    gc.collect()
    assert open_descriptors() == before


def test_repr_of_a_context():
    with EventFd() as efd, efd.dup():
        context = eventfd_context(efd)
        assert repr(context).endswith("Context references=1 descriptors=3>")
        context.put()
        assert repr(context).endswith("Context references=0 descriptors=2>")


# -- what is no eventfd ----------------------------------------------------------------------------------


def free_number():
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


@pytest.mark.parametrize("number", [-1, -2, -(2**31), 2**31 - 1, 2**31, 2**64, "free"])
def test_bad_descriptor_is_ebadf(number):
    number = free_number() if number == "free" else number
    with pytest.raises(RegistrationError) as caught:
        eventfd_context(number)
    assert caught.value.errno == errno.EBADF
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, PvMmioError)
    assert str(number) in str(caught.value)
    with pytest.raises(OSError) as caught:
        EventFd.from_fd(number)
    assert caught.value.errno == errno.EBADF


def test_closed_eventfd_is_ebadf():
    efd = EventFd()
    efd.close()
    with pytest.raises(RegistrationError, match="closed") as caught:
        eventfd_context(efd)
    assert caught.value.errno == errno.EBADF


def _null():
    return os.open(os.devnull, os.O_RDWR)


def _file():
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _pipe():
    end, other = os.pipe()
    os.close(other)
    return end


def _socket():
    with socket.socket(socket.AF_UNIX) as end:
        return end.detach()


@pytest.mark.parametrize("make", [_null, _file, _pipe, _socket])
def test_other_descriptor_is_einval_and_stays_open(make):
    number = make()
    before = open_descriptors()
    try:
        with pytest.raises(RegistrationError) as caught:
            eventfd_context(number)
        assert caught.value.errno == errno.EINVAL
        assert f"descriptor {number} " in str(caught.value)
        with pytest.raises(OSError) as caught:
            EventFd.from_fd(number)
        assert caught.value.errno == errno.EINVAL
        assert is_open(number)
        assert open_descriptors() == before
    finally:
        os.close(number)


@pytest.mark.parametrize("source", [None, "3", 3.0, True, b"3", [3], EventFd])
def test_wrong_type(source):
    with pytest.raises(TypeError):
        eventfd_context(source)


@pytest.mark.parametrize("source", [None, "3", 3.0, b"3"])
def test_from_fd_takes_numbers_only(source):
    with pytest.raises(TypeError):
        EventFd.from_fd(source)


def test_backends_live_side_by_side(monkeypatch):
    efds = []
    for value in "01":
        monkeypatch.setenv("PVMMIO_PORTABLE_EVENTFD", value)
        efds.append(EventFd())
    for efd in efds:
        with EventFd.from_fd(efd.fileno()) as adopted:
            assert context_of(adopted) is context_of(efd)
            adopted.signal()
            assert efd.read() == 1
            assert repr(adopted).replace(f"={adopted.fileno()} ", "") == repr(efd).replace(
                f"={efd.fileno()} ", ""
            )
        efd.close()


# -- leaks -----------------------------------------------------------------------------------------------


def test_a_thousand_rounds_leave_no_descriptor():
    before = open_descriptors()
    for number in range(1000):
        efd = EventFd()
        twin = efd.dup()
        adopted = EventFd.from_fd(twin.fileno())
        context = eventfd_context(efd if number % 2 else adopted.fileno())
        context.signal()
        assert adopted.wait(1) == 1
        adopted.wait(0.00001)
        for one in (efd, twin, adopted) if number % 3 else (twin, adopted):
            one.close()
        context.put()
        del efd
    assert open_descriptors() == before


def test_failed_adoptions_leave_no_descriptor():
    null = os.open(os.devnull, os.O_RDONLY)
    before = open_descriptors()
    for number in [null, -1, free_number()] * 100:
        with pytest.raises(RegistrationError):
            eventfd_context(number)
    assert open_descriptors() == before
    os.close(null)
