"""The real eventfd between processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from pvmmio_uc.eventfd import EventFd, eventfd_context

from .eventfd_helpers import HAS_EVENTFD, LONG, WRITE_MAX, in_time, no_longer_than

pytestmark = pytest.mark.skipif(not HAS_EVENTFD, reason="this system has no eventfd(2)")


@pytest.fixture(autouse=True)
def _real(monkeypatch):
    monkeypatch.delenv("PVMMIO_PORTABLE_EVENTFD", raising=False)
    with no_longer_than(2 * LONG):
        yield


def python(code, *descriptors):
    arguments = [sys.executable, "-c", textwrap.dedent(code), *map(str, descriptors)]
    return subprocess.Popen(arguments, pass_fds=descriptors, stdout=subprocess.PIPE, text=True)


def test_child_reads_what_was_signalled():
    with EventFd() as efd:
        for _ in range(3):
            efd.signal()
        with python("import os, sys; print(os.eventfd_read(int(sys.argv[1])))", efd.fileno()) as child:
            assert child.communicate(timeout=LONG)[0] == "3\n"
        assert efd.count == 0


def test_child_waits_in_read_and_answers():
    code = """
        import os, sys
        kick, done = map(int, sys.argv[1:])
        print("up", flush=True)
        os.eventfd_write(done, os.eventfd_read(kick) + 41)
    """
    with EventFd() as kick, EventFd() as done, python(code, kick.fileno(), done.fileno()) as child:
        assert child.stdout.readline() == "up\n"
        context = eventfd_context(kick)
        context.signal()
        assert done.wait(LONG) == 42
        assert child.wait(LONG) == 0
        context.put()


def test_child_does_not_inherit_unasked():
    code = "import os, sys; print(sorted(os.listdir('/proc/self/fd')))"
    with EventFd() as efd:
        context = eventfd_context(efd)
        with subprocess.Popen(
            [sys.executable, "-c", code], close_fds=False, stdout=subprocess.PIPE, text=True
        ) as child:
            listed = child.communicate(timeout=LONG)[0]
        for fd in (efd.fileno(), context.fileno()):
            assert f"'{fd}'" not in listed
        context.put()


def test_fork_shares_the_eventfd():
    code = """
        import os
        from pvmmio_uc.eventfd import EventFd
        with EventFd() as efd:
            child = os.fork()
            if not child:
                efd.signal()
                efd.write(6)
                os._exit(0)
            os.waitpid(child, 0)
            print(efd.wait(10))
    """
    with python(code) as parent:
        assert parent.communicate(timeout=LONG)[0] == "7\n"


def test_write_waits_for_a_reader_in_another_process():
    code = "import os, sys; sys.stdin.read(); print(os.eventfd_read(int(sys.argv[1])))"
    with EventFd() as efd:
        efd.write(WRITE_MAX)
        with python(code, efd.fileno()) as child:
            in_time(efd.write, 9)
            assert child.communicate(timeout=LONG)[0] == f"{WRITE_MAX}\n"
        assert efd.read() == 9
