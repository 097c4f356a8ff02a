"""Performing scenarios: eventfd ids, exits and what was signalled before them, and each kind of step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pvmmio_uc.replay.bus_level import BusLevel
from pvmmio_uc.replay.layout import answer, runs, string_answer
from pvmmio_uc.replay.runner import KVM_IOEVENTFD, perform
from pvmmio_uc.replay.schema import parse_scenario

from .recorded import A, Json, io, raw, run, store

P = A + 0x1000
ENOENT, EBADF, EEXIST, EINVAL = -errno.ENOENT, -errno.EBADF, -errno.EEXIST, -errno.EINVAL
U64 = (1 << 64) - 1


def all_equal(*pairs: tuple[Json, Json], **more: object) -> None:
    for number, step in enumerate(run(*pairs, **more).steps):
        assert step.got == step.expected, number


def x(*transactions: list[object], **result: object) -> tuple[Json, Json]:
    step = {"o": "x", "k": "", "c": "90", "r": {}, "tx": list(transactions)}
    return step, {"end": "hlt", **result}


class TestEventFdIds:
    def test_what_is_no_eventfd(self) -> None:
        expected = [("null", EINVAL), ("vm", EINVAL), ("closed", EBADF), ("neg", EBADF)]
        all_equal(*(io(eventfd=name, rc=rc, flags=flags) for name, rc in expected for flags in (0, 4)))

    def test_dup_is_the_same_eventfd(self) -> None:
        dup = {"o": "dup", "e": 5, "of": 0}, {"rc": 0}
        all_equal(io(), dup, io(flags=4, eventfd=5), io(eventfd=5), store(A, "01000000", e0=1), io(flags=4))

    def test_it_is_reported_under_the_older_id(self) -> None:
        older_is_the_source = [({"o": "dup", "e": 1, "of": 0}, {"rc": 0}), io(eventfd=1)]
        all_equal(*older_is_the_source, store(A, "00000000", e0=1))
        closed = ({"o": "close", "e": 0}, {"rc": 0})
        all_equal(*older_is_the_source, closed, store(A, "00000000", e1=1))
        made_again = [closed, io(A + 4, eventfd=0)]
        all_equal(
            *older_is_the_source, *made_again, store(A, "00000000", e1=1), store(A + 4, "00000000", e0=1)
        )

    def test_dup_onto_an_open_id_closes_that(self) -> None:
        dup = {"o": "dup", "e": 1, "of": 0}, {"rc": 0}
        all_equal(
            io(eventfd=1), io(A + 4, eventfd=0), dup, store(A, "00000000"), store(A + 4, "00000000", e0=1)
        )

    def test_dup_onto_itself(self) -> None:
        all_equal(io(), ({"o": "dup", "e": 0, "of": 0}, {"rc": 0}), store(A, "00000000", e0=1))

    def test_close_forgets_the_id(self) -> None:
        close = {"o": "close", "e": 0}
        all_equal((close, {"rc": EBADF}), io(), (close, {"rc": 0}), (close, {"rc": EBADF}))
        all_equal(io(), (close, {"rc": 0}), io(flags=4, rc=ENOENT), io(rc=EEXIST), store(A, "00000000"))

    def test_signals(self) -> None:
        def signal(value: int, rc: int) -> tuple[Json, Json]:
            return {"o": "sig", "e": 0, "v": value}, {"rc": rc}

        all_equal(signal(U64, EINVAL), signal(U64 - 1, 0), signal(1, -errno.EAGAIN), x(ev={"0": U64 - 1}))


class TestExits:
    def test_signalled_before_and_after_an_exit(self) -> None:
        signal = {"o": "sig", "e": 0, "v": 7}, {"rc": 0}
        exit_ = ["W", A + 8, 1, "05"]
        writes = [["w", A, 4, "00000000"], ["w", A + 8, 1, "05"], ["w", A, 4, "00000000"]]
        all_equal(io(), signal, x(*writes, ex=[["V", {"0": 8}], exit_], ev={"0": 9}))

    def test_pieces(self) -> None:
        all_equal(
            io(P),
            x(
                ["w", P - 4, 8, "0011223344556677"],
                ex=[["V", {"0": 1}], ["W", P - 4, 4, "00112233"]],
                ev={"0": 1},
            ),
            x(["w", A, 16, "00" * 16], ex=[["W", A, 8, "00" * 8], ["W", A + 8, 8, "00" * 8]]),
            x(["r", P - 1, 4], ex=[["R", P - 1, 1, answer(P - 1, 1).hex()], ["R", P, 3, answer(P, 3).hex()]]),
        )

    def test_ports(self) -> None:
        zone = {"o": "cz", "a": 0x60, "n": 4, "p": 1}, {"rc": 0}
        all_equal(
            io(0x50, 1, 2),
            zone,
            x(["o", 0x50, 1, "07"], ev={"0": 1}),
            x(["o", 0x4F, 2, "0708"], ["o", 0x60, 4, "01020304"], ex=[["O", 0x4F, 2, 1, "0708"]]),
            x(["i", 0x50, 1, 3], ex=[["I", 0x50, 1, 3, "6a6b6c"]]),
            x(["i", 0x50, 2, 2], ex=[["I", 0x50, 2, 2, string_answer(0x50, 2, 2).hex()]]),
            ({"o": "ring"}, {"ring": [[1, 0x60, 4, "01020304"]]}),
        )

    def test_port_input_from_a_device(self) -> None:
        all_equal(x(["i", 0x21, 1, 3], ["o", 0x21, 1, "ff"], ["i", 0x21, 1, 1]), vm={"irqchip": True})

    def test_the_answers(self) -> None:
        assert answer(A, 4).hex() == "5af79431"
        assert answer(0x50, 1) == b"\x6a"
        assert string_answer(0x50, 1, 3).hex() == "6a6b6c"


class TestMemory:
    def test_what_a_recorded_write_accounts_for_is_compared(self) -> None:
        write = ["w", 0x10000, 4, "aabbccdd"]
        all_equal(x(write, ram=[[0x10000, "aabbccdd"]]))
        assert run(x(write, ram=[[0x10000, "aabbccde"]])).mismatches == [0]
        assert run(x(write)).mismatches == [0]

    def test_a_byte_that_was_so_before_has_not_changed(self) -> None:
        pattern = bytes((a * 7 + 3) & 255 for a in range(4)).hex()
        all_equal(
            x(["w", 0x10000, 4, pattern]),
            x(["w", 0x10000, 4, "ff0a11ff"], ram=[[0x10000, "ff"], [0x10003, "ff"]]),
        )

    def test_the_rest_is_not_the_bus_levels(self) -> None:
        all_equal(x(ram=[[0x10000, "00"]]))

    def test_it_is_refilled(self) -> None:
        all_equal(x(["w", 0x11FFF, 1, "00"], ram=[[0x11FFF, "00"]]), x())

    def test_a_write_out_of_ram(self) -> None:
        all_equal(io(0x40000), x(["w", 0x3FFFC, 8, "00" * 8], ev={"0": 1}))

    def test_read_only_memory(self) -> None:
        both = [io(0x800000), x(["r", 0x800000, 4], ["w", 0x800000, 4, "00000000"], ev={"0": 1})]
        all_equal(*both, vm={"rom": True})
        assert run(*both).mismatches == [1]

    def test_runs(self) -> None:
        assert runs({7: 1, 5: 255, 6: 0, 9: 2}) == [[5, "ff0001"], [9, "02"]]
        assert runs({}) == []


class TestCalls:
    def test_many_stops_at_the_first_error(self) -> None:
        many = {"o": "many", "a": A, "n": 5, "st": 8, "l": 4, "f": 0, "e": 0}
        all_equal(io(A + 16), (many, {"rc": EEXIST, "at": 2}), store(A + 8, "00000000", e0=1))

    def test_many_wraps(self) -> None:
        many = {"o": "many", "a": U64 - 8, "n": 2, "st": 0x40009, "l": 1, "f": 1, "d": U64, "ds": 2, "e": 0}
        all_equal((many, {"rc": 0, "at": 2}), store(0x40000, "01", e0=1))

    def test_zones(self) -> None:
        zones = {"o": "czmany", "a": A, "n": 1100, "st": 16, "l": 8}
        all_equal(
            (zones, {"rc": -errno.ENOSPC, "at": 1000}), ({"o": "cz", "a": A, "n": 8, "p": 2}, {"rc": EINVAL})
        )
        gone = {"o": "cz", "a": A, "n": 4, "u": 1}, {"rc": 0}
        zone = {"o": "cz", "a": A, "n": 8}, {"rc": 0}
        ring = {"o": "ring"}, {"ring": [[0, A, 4, "01000000"]]}
        all_equal(zone, store(A, "01000000"), gone, store(A, "02000000", ["W", A, 4, "02000000"]), ring)

    @pytest.mark.parametrize(
        ("on", "request_", "null", "rc"),
        [
            ("vm", KVM_IOEVENTFD, True, -errno.EFAULT),
            ("vm", KVM_IOEVENTFD, False, 0),
            ("vm", KVM_IOEVENTFD - (24 << 16), False, -errno.ENOTTY),
            ("vm", 0, True, -errno.ENOTTY),
            ("vcpu", KVM_IOEVENTFD, False, EINVAL),
            ("kvm", KVM_IOEVENTFD, True, EINVAL),
        ],
    )
    def test_raw(self, on: str, request_: int, null: bool, rc: int) -> None:
        argument = {"ptr": "null"} if null else {"a": A, "l": 4, "f": 0, "e": 0}
        all_equal(({"o": "raw", "on": on, "req": request_, **argument}, {"rc": rc}))

    @pytest.mark.parametrize("on", ["vm", "vcpu", "kvm"])
    def test_a_raw_call_makes_the_eventfd_that_it_names(self, on: str) -> None:
        call = {"o": "raw", "on": on, "req": 0, "a": A, "l": 4, "f": 0, "e": 3}
        rc = -errno.ENOTTY if on == "vm" else EINVAL
        all_equal((call, {"rc": rc}), ({"o": "close", "e": 3}, {"rc": 0}))


class TestWithoutTx:
    STEP = ({"o": "x", "k": "fxsave", "c": "0fae03", "r": {}}, {"end": "internal1", "ev": {"0": 5}})

    def test_it_is_not_compared(self) -> None:
        outcome = run(self.STEP)
        assert (outcome.steps[0].expected, outcome.steps[0].got, outcome.mismatches) == (None, None, [])

    def test_the_counters_are_read_all_the_same(self) -> None:
        signal = {"o": "sig", "e": 0, "v": 5}, {"rc": 0}
        assert run(signal, self.STEP, x()).mismatches == []


def test_no_descriptor_is_left_open() -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc/self/fd here")
    scenario = parse_scenario(
        raw(*(io(eventfd=name, rc=-1) for name in (0, 1, "null", "vm", "closed", "neg")))
    )
    perform(scenario, BusLevel)
    before = os.listdir(descriptors)
    for _ in range(10):
        perform(scenario, BusLevel)
    assert len(os.listdir(descriptors)) == len(before)
