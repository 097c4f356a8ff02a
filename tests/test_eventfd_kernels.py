"""The real eventfd on older kernels: no eventfd-id, no kcmp(2), no RWF_NOWAIT."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pvmmio_uc import _eventfd_linux as linux
from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import COUNT_MAX, HAS_EVENTFD, LONG, in_time, no_longer_than

pytestmark = pytest.mark.skipif(not HAS_EVENTFD, reason="this system has no eventfd(2)")


@pytest.fixture(autouse=True)
def _real(monkeypatch):
    monkeypatch.delenv("PVMMIO_PORTABLE_EVENTFD", raising=False)
    with no_longer_than(2 * LONG):
        yield


@pytest.fixture
def raw():
    """A blocking eventfd that this package did not make."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def without_id(monkeypatch):
    """A kernel before 5.2."""
    inspect = linux._inspect

    def inspect_without_id(fd):
        info = inspect(fd)
        return info and info._replace(number=None)

    monkeypatch.setattr(linux, "_inspect", inspect_without_id)


@pytest.fixture
def refused_kcmp(monkeypatch):
    monkeypatch.setattr(linux, "_KCMP_NUMBER", {})


@pytest.mark.usefixtures("without_id")
def test_identity_by_kcmp(raw):
    if not linux._same_file(raw, raw):
        pytest.skip("no kcmp(2) here")
    assert not linux._same_file(raw, -1)
    with EventFd() as efd, EventFd() as other, EventFd.from_fd(raw) as adopted:
        context = eventfd_context(efd)
        for source, same in [(efd.fileno(), True), (other.fileno(), False), (raw, False)]:
            found = eventfd_context(source)
            assert (found is context) is same
            found.put()
        again = eventfd_context(raw)
        assert again is eventfd_context(adopted)
        again.put()
        again.put()
        context.put()


@pytest.mark.usefixtures("without_id", "refused_kcmp")
def test_no_identity_of_bare_descriptors_without_id_and_kcmp(raw):
    one, other = eventfd_context(raw), eventfd_context(raw)
    assert one is not other
    one.signal()
    other.signal()
    assert os.eventfd_read(raw) == 2
    one.put()
    other.put()
    with EventFd() as efd, efd.dup() as twin:
        assert eventfd_context(efd) is eventfd_context(twin)
        eventfd_context(efd).put()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"pos:\t0\nflags:\t02\nmnt_id:\t9\neventfd-count:                0\n", (0, None, False)),
        (b"eventfd-count: ffffffffffffffff\neventfd-id: 12\n", (COUNT_MAX, 12, False)),
        (b"eventfd-count: 1f\neventfd-id: -12\neventfd-semaphore: 1\n", (31, None, True)),
        (b"pos:\t0\nflags:\t02\nsigmask:\t0\n", None),
    ],
)
def test_fdinfo_of_every_age(monkeypatch, tmp_path, text, expected):
    (tmp_path / "7").write_bytes(text)
    real_open = os.open
    monkeypatch.setattr(
        linux.os,
        "open",
        lambda path, flags: real_open(path.replace("/proc/self/fdinfo", str(tmp_path)), flags),
    )
    assert linux._inspect(7) == expected


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_reads_without_rwf_nowait(monkeypatch, code):
    """Before 5.8 an eventfd knows no RWF_NOWAIT, and before 4.6 there is no preadv2(2)."""
    if code is None:
        monkeypatch.setattr(linux, "_RWF_NOWAIT", 0)
    else:

        def refuse(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(linux.os, "preadv", refuse)
    with EventFd() as efd, EventFd(blocking=False) as quick:
        assert in_time(efd.wait, 0.01) == 0
        with pytest.raises(BlockingIOError):
            quick.read()
        for one in (efd, quick):
            one.write(3)
            assert one.read() == 3
        threading.Timer(0.05, efd.signal).start()
        assert in_time(efd.read) == 1
