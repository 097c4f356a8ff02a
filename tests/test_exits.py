"""What an exit says about itself, and the log of them."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Access, Exit, ExitLog, Reason, Route, Steps, UserspaceExit, heaviest


def an_exit(route: Route = Route.IOEVENTFD, pc: int | None = 0x1000, note: str = "", bus: int = 1) -> Exit:
    access = Access(True, 0xA000050, 4, b"\1\0\0\0", route)
    return Exit(Reason.MMIO, pc, 0xA000050, True, (access,), route, Steps(exits=1, bus=bus), note)


class TestExit:
    def test_in_words(self) -> None:
        assert str(an_exit()) == "mmio 0xa000050 at pc 0x1000: W 0xa000050+4 01000000 -> ioeventfd"

    def test_without_pc(self) -> None:
        assert "at pc ?" in str(an_exit(pc=None))

    def test_note(self) -> None:
        assert str(an_exit(note="skipped")).endswith("-> ioeventfd (skipped)")

    def test_without_accesses(self) -> None:
        empty = Exit(Reason.HYPERCALL, 0, 5, False, (), Route.ERROR, Steps())
        assert str(empty) == "hypercall 0x5 at pc 0x0: error"

    def test_reads(self) -> None:
        access = Access(False, 0x10, 2, b"\xff\xfe", Route.USERSPACE)
        reading = Exit(Reason.IO, 4, 0x10, False, (access,), Route.USERSPACE, Steps())
        assert str(reading) == "io 0x10 at pc 0x4: R 0x10+2 fffe -> userspace"


class TestRoutes:
    def test_the_heaviest_is_the_one_that_counts(self) -> None:
        order = [
            Route.FAST,
            Route.IOEVENTFD,
            Route.COALESCED,
            Route.DEVICE,
            Route.MEMORY,
            Route.HYPERVISOR,
            Route.USERSPACE,
            Route.ERROR,
        ]
        assert list(Route) == order
        for index, route in enumerate(order):
            assert heaviest(order[: index + 1]) is route
            assert heaviest(reversed(order[: index + 1])) is route

    def test_of_nothing_it_is_an_error(self) -> None:
        assert heaviest([]) is Route.ERROR

    def test_their_names_are_their_text(self) -> None:
        assert f"{Route.FAST} {Reason.FETCH}" == "fast fetch"


class TestSteps:
    def test_adding(self) -> None:
        total = Steps(exits=1, walk=4, bus=3)
        total.add(Steps(exits=1, fetch=15, decode=1, signals=1, userspace=2))
        assert total.as_dict() == {
            "exits": 2,
            "walk": 4,
            "fetch": 15,
            "decode": 1,
            "bus": 3,
            "signals": 1,
            "userspace": 2,
        }

    def test_adding_leaves_the_other_alone(self) -> None:
        one, two = Steps(exits=1), Steps(exits=2)
        one.add(two)
        assert (one, two) == (Steps(exits=3), Steps(exits=2))

    def test_every_step_is_added(self) -> None:
        total = Steps(1, 2, 3, 4, 5, 6, 7)
        total.add(Steps(10, 20, 30, 40, 50, 60, 70))
        assert list(total.as_dict().values()) == [11, 22, 33, 44, 55, 66, 77]


class TestUserspaceExit:
    @pytest.mark.parametrize(("order", "value"), [("little", 0x0201), ("big", 0x0102)])
    def test_value(self, order: str, value: int) -> None:
        exit_ = UserspaceExit(Reason.MMIO, True, 0x10, 2, b"\1\2", 0, order)  # type: ignore[arg-type]
        assert exit_.value == value
        exit_.value = value + 1
        assert exit_.data == (b"\2\2" if order == "little" else b"\1\3")

    @pytest.mark.parametrize(("value", "data"), [(-1, b"\xff\xff"), (0x12345, b"\x45\x23"), (0, b"\0\0")])
    def test_value_is_cut_to_the_size(self, value: int, data: bytes) -> None:
        exit_ = UserspaceExit(Reason.MMIO, False, 0x10, 2, bytes(2), 0)
        exit_.value = value
        assert exit_.data == data

    def test_string_input(self) -> None:
        exit_ = UserspaceExit(Reason.IO, False, 0x50, 2, bytes(6), 0, count=3)
        exit_.value = 0x060504030201
        assert exit_.data == bytes(range(1, 7))


class TestLog:
    def test_it_keeps_the_most_recent_and_counts_all(self) -> None:
        log = ExitLog(2)
        for number in range(5):
            log.append(an_exit(pc=number))
        assert [exit_.pc for exit_ in log] == [3, 4]
        assert (len(log), log.total, log.lost) == (2, 5, 3)
        assert (log[0].pc, log[-1].pc) == (3, 4)

    def test_sums(self) -> None:
        log = ExitLog(1)
        log.append(an_exit(Route.FAST, bus=2))
        log.append(an_exit(Route.USERSPACE, bus=5))
        log.append(an_exit(Route.FAST, bus=1))
        assert log.by_route == {Route.FAST: 2, Route.USERSPACE: 1}
        assert log.steps == Steps(exits=3, bus=8)
        assert repr(log) == "<ExitLog 3 exits, 2 lost: fast 2, userspace 1>"

    def test_without_room_it_only_counts(self) -> None:
        log = ExitLog(0)
        log.append(an_exit())
        assert (list(log), log.total, log.lost) == ([], 1, 1)

    def test_it_does_not_add_into_an_exit(self) -> None:
        log, exit_ = ExitLog(), an_exit()
        log.append(exit_)
        log.append(an_exit())
        assert exit_.steps == Steps(exits=1, bus=1)

    def test_clear(self) -> None:
        log = ExitLog()
        log.append(an_exit())
        log.clear()
        assert (len(log), log.total, log.lost, dict(log.by_route), log.steps) == (0, 0, 0, {}, Steps())
        assert repr(log) == "<ExitLog 0 exits, 0 lost: none>"

    def test_limit_below_0(self) -> None:
        with pytest.raises(ValueError, match="keeps 0 or more exits, not -1"):
            ExitLog(-1)
