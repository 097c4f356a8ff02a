"""The steps of an exit for each stage 2 and profile: what is done, what is skipped, and which bus took it.

The expectations are KVM's: arch/x86/kvm/vmx/vmx.c, svm/svm.c, mmu/mmu.c; arch/arm64/kvm/mmio.c;
arch/powerpc/kvm/book3s_64_mmu_hv.c. Guest paging is on throughout.
"""

from __future__ import annotations

import pytest
from unicorn.ppc_const import UC_CPU_PPC32_7400_V2_9

from pvmmio_uc import EventFd, PvMmio, Route
from pvmmio_uc.arch import ARCHES
from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.exits import Exit
from pvmmio_uc.plugin import Decode
from pvmmio_uc.stage2 import PROFILES, STAGE2_KINDS

from .arch.ppc.guest import SDR1, engine, set_segment, set_spr, translation_on
from .conftest import MakeGuest
from .plugin_guests import Guest, Registers, routes

PAGING = {
    "x86": Variant(64, True, "little"),
    "arm64": Variant(64, True, "little"),
    "ppc": Variant(32, True, "big"),
}
KINDS = list(STAGE2_KINDS)
ASKS = {
    "rfc-2013": {"ept"},
    "linux": {"ept", "npt", "hv"},
    "everywhere": {"ept", "npt", "shadow", "stage2", "hv", "pr"},
    "off": set(),
}
FIRST_TOUCH_IS_SLOW = {"ept", "npt", "shadow"}
READS_FIRE = {"ept", "npt"}

# (walk, fetch, decode) of an access that goes the ordinary way. x86: an identity map of 2 MiB pages, so
# 3 loads for pc, and on shadow paging 3 more for the data of a page's first touch. ppc: BATs, so no loads.
FIRST = {
    "ept": (3, 15, 1),
    "npt": (0, 0, 1),
    "shadow": (6, 15, 1),
    "stage2": (0, 0, 0),
    "hv": (0, 4, 1),
    "pr": (0, 4, 1),
}
LATER = {**FIRST, "shadow": (3, 15, 1)}
FAST = {
    "ept": (0, 0, 0),
    "npt": (0, 0, 0),
    "shadow": (3, 15, 1),
    "stage2": (0, 0, 0),
    "hv": (0, 0, 0),
    "pr": (0, 0, 0),
}


@pytest.fixture(params=KINDS)
def stage2(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def make(make_guest: MakeGuest, stage2: str, profile: str = "linux", decode: Decode = "software") -> Guest:
    arch = STAGE2_KINDS[stage2].arch
    return make_guest(arch, PAGING[arch], stage2=stage2, profile=profile, decode=decode)


def steps(exit_: Exit) -> tuple[int, int, int]:
    return exit_.steps.walk, exit_.steps.fetch, exit_.steps.decode


def outcome(exit_: Exit) -> tuple[str, int, int, int]:
    return str(exit_.route), exit_.steps.exits, exit_.steps.signals, exit_.steps.userspace


def test_the_kinds_of_each_architecture_are_those_of_its_engine() -> None:
    for name, arch in ARCHES.items():
        assert set(arch.stage2_kinds) == {kind.name for kind in STAGE2_KINDS.values() if kind.arch == name}


def test_the_profiles_ask_the_fast_bus_where_the_mail_and_the_kernel_do() -> None:
    assert {name: set(profile.asks) for name, profile in PROFILES.items()} == ASKS


def test_stores_to_a_doorbell_of_any_length(
    make_guest: MakeGuest, bell: EventFd, stage2: str, profile: str
) -> None:
    guest = make(make_guest, stage2, profile)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(*[guest.store(4, 0x50)] * 3)
    first, *later = guest.pv.exits

    asked = stage2 in ASKS[profile]
    slow = not asked or stage2 in FIRST_TOUCH_IS_SLOW
    assert outcome(first) == ("ioeventfd" if slow else "fast", 1, 1, 0)
    assert steps(first) == (FIRST if slow else FAST)[stage2]
    for exit_ in later:
        assert outcome(exit_) == ("fast" if asked else "ioeventfd", 1, 1, 0)
        assert steps(exit_) == (FAST if asked else LATER)[stage2]
    assert [exit_.steps.bus for exit_ in guest.pv.exits] == [2, 2, 2]  # one entry, there and on
    assert bell.read() == 3


def test_stores_that_nobody_claims_miss_the_fast_bus_first(
    make_guest: MakeGuest, bell: EventFd, stage2: str, profile: str
) -> None:
    guest = make(make_guest, stage2, profile)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(guest.store(4, 0x60), guest.store(4, 0x60))
    first, later = guest.pv.exits

    asked = stage2 in ASKS[profile]
    assert [outcome(exit_) for exit_ in guest.pv.exits] == [("userspace", 1, 0, 1)] * 2
    assert (steps(first), steps(later)) == (FIRST[stage2], LATER[stage2])
    # One comparison with the one entry of a bus: the fast one and the ordinary one, or that alone.
    assert first.steps.bus == 1 + (asked and stage2 not in FIRST_TOUCH_IS_SLOW)
    assert later.steps.bus == 1 + asked
    assert bell.count == 0


def test_loads_from_a_doorbell(make_guest: MakeGuest, bell: EventFd, stage2: str, profile: str) -> None:
    """On EPT and NPT nobody knows that it is a load: it signals, and its register stays as it was."""
    guest = make(make_guest, stage2, profile)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.pv.on_userspace(lambda exit_: 0x1234)
    guest.run(guest.load(4, 0x50))
    assert guest.value == 0x1234, "the first touch of a page is a real load everywhere"

    guest.value = 0x77
    guest.run(guest.load(4, 0x50))
    first, later = guest.pv.exits
    fires = stage2 in READS_FIRE and stage2 in ASKS[profile]
    assert outcome(first) == ("userspace", 1, 0, 1)
    assert outcome(later) == (("fast", 1, 1, 0) if fires else ("userspace", 1, 0, 1))
    assert guest.value == (0x77 if fires else 0x1234)
    assert steps(later) == (FAST if fires else LATER)[stage2]
    assert not later.write
    assert bool(later.note) == fires
    assert bell.count == fires


def test_assist_decodes_nothing_and_asks_the_same_bus(
    make_guest: MakeGuest, bell: EventFd, stage2: str, profile: str
) -> None:
    guest = make(make_guest, stage2, profile, "assist")
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(*[guest.store(4, 0x50)] * 2, guest.load(4, 0x50))
    asked = stage2 in ASKS[profile]
    slow = not asked or stage2 in FIRST_TOUCH_IS_SLOW
    assert routes(guest) == ["ioeventfd" if slow else "fast", "fast" if asked else "ioeventfd", "userspace"]
    assert {steps(exit_) for exit_ in guest.pv.exits} == {(0, 0, 0)}
    assert {exit_.pc for exit_ in guest.pv.exits} == {None}
    assert bell.read() == 2


@pytest.mark.parametrize("touch", ["load", "store"])
def test_a_page_is_touched_by_loads_and_by_stores(
    make_guest: MakeGuest, bell: EventFd, decode: Decode, touch: str
) -> None:
    guest = make(make_guest, "ept", decode=decode)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(getattr(guest, touch)(4, 0x80), guest.store(4, 0x50), guest.store(4, 0x1050))
    assert routes(guest) == ["userspace", "fast", "userspace"], "each page by itself"


def test_shadow_paging_remembers_the_page_that_the_guest_used(make_guest: MakeGuest) -> None:
    guest = make(make_guest, "shadow")
    guest.run(*[guest.store(4, at) for at in (0, 8, 0x1000, 0x1008, 0)])
    assert [exit_.steps.walk for exit_ in guest.pv.exits] == [6, 3, 6, 3, 3]


def test_mapping_and_unmapping_ram_leaves_the_fast_bus_alone(
    make_guest: MakeGuest, bell: EventFd, decode: Decode
) -> None:
    guest = make(make_guest, "ept", decode=decode)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(*[guest.store(4, 0x50)] * 2)
    guest.uc.mem_map(0x5000_0000, 0x1000)
    guest.run(guest.store(4, 0x50))
    guest.uc.mem_unmap(0x5000_0000, 0x1000)
    guest.run(guest.store(4, 0x50))
    assert routes(guest) == ["ioeventfd", "fast", "fast", "fast"]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_fast_doorbell_takes_every_width_that_begins_there(
    make_guest: MakeGuest, bell: EventFd, size: int
) -> None:
    guest = make(make_guest, "npt")
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(guest.store(1, 0x80), guest.store(size, 0x50))
    assert routes(guest) == ["userspace", "fast"]


@pytest.mark.parametrize(("stage2", "size", "below"), [("ept", 8, 4), ("npt", 4, 2), ("hv", 4, 2)])
def test_a_fast_doorbell_misses_what_begins_below_it(
    make_guest: MakeGuest, bell: EventFd, stage2: str, size: int, below: int
) -> None:
    guest = make(make_guest, stage2)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(guest.store(1, 0x80), guest.store(size, 0x50 - below), guest.store(1, 0x51))
    assert routes(guest) == ["userspace"] * 3
    assert bell.count == 0


WHOLE = {
    "rep stosd": {"rcx": 5, "rdi": 0x50, "rax": 7},
    "rep stosb": {"rcx": 0x10, "rdi": 0x50, "rax": 7},
    "add dword ptr [rbx + 0x50], ecx": {"rcx": 0xFFFFFFFF},
    "lock xadd dword ptr [rbx + 0x50], ecx": {"rcx": 3},
    "xchg dword ptr [rbx + 0x50], ecx": {"rcx": 3},
    "inc qword ptr [rbx + 0x50]": {},
    "push rcx": {"rsp": 0x58, "rcx": 9},
    "movsb": {"rsi": 0x50, "rdi": -0x1000},
    "movups xmmword ptr [rbx + 0x50], xmm0": {},
}
"""Instructions at a fast doorbell, and registers; addresses are relative to the device."""


@pytest.mark.parametrize("stage2", ["ept", "npt"])
@pytest.mark.parametrize("text", WHOLE)
def test_a_fast_hit_skips_the_whole_instruction_and_signals_once(
    make_guest: MakeGuest, bell: EventFd, stage2: str, text: str
) -> None:
    guest = make(make_guest, stage2)
    guest.pv.ioeventfd(bell, guest.mmio + 0x50)
    guest.run(guest.store(4, 0x80))
    for name, value in WHOLE[text].items():
        address = name in ("rdi", "rsi", "rsp")
        guest.machine[name] = (guest.mmio + value) if address else value
    watched = ("rax", "rbx", "rcx", "rdi", "rsi", "rsp", "eflags")
    before = {name: guest.machine[name] for name in watched}
    start, end = guest.place(text)
    guest.uc.emu_start(start, end)
    assert guest.pc == end
    assert {name: guest.machine[name] for name in watched} == before
    assert routes(guest) == ["userspace", "fast"]
    assert bell.read() == 1
    assert guest.pv.exits[-1].steps.decode == 0


@pytest.mark.parametrize("stage2", ["stage2", "hv", "pr"])
def test_an_update_form_loses_its_update_at_a_fast_hit(
    make_guest: MakeGuest, bell: EventFd, stage2: str
) -> None:
    """kvmppc_hv_emulate_mmio moves pc and nothing else; the others do as they do."""
    guest = make(make_guest, stage2, "everywhere")
    guest.pv.ioeventfd(bell, guest.mmio + 8)
    base = guest.machine[guest.words.base]
    store = {"arm64": "str w0, [x1, #8]!", "ppc": "stwu 3, 8(4)"}[guest.arch]
    guest.run(store)
    assert routes(guest) == ["fast"]
    assert guest.machine[guest.words.base] == base

    plain = make(make_guest, stage2, "off")
    plain.pv.ioeventfd(bell, plain.mmio + 8)
    plain.run(store)
    assert routes(plain) == ["ioeventfd"]
    assert plain.machine[plain.words.base] == base + 8


def test_pr_walks_the_hashed_page_table_for_code_and_for_data() -> None:
    """kvmppc_handle_pagefault: nothing tells the guest-physical address but the guest's own tables."""
    uc, code, device = engine(UC_CPU_PPC32_7400_V2_9), 0x1000, 0x0FF0_0000
    table, vsid = 0x40_0000, 0x123
    set_spr(uc, SDR1, table)  # 64 KiB
    set_segment(uc, 0, vsid)
    for page, frame in ((code >> 12, code >> 12), (0x5, device >> 12)):
        group = table + ((vsid ^ page) & 0x3FF) * 64
        entry = (1 << 31 | vsid << 7 | page >> 10).to_bytes(4, "big") + (frame << 12 | 0b10).to_bytes(
            4, "big"
        )
        uc.mem_write(group, entry)
    uc.mem_write(code, bytes.fromhex("90640000 90640000"))  # stw 3, 0(4), twice
    translation_on(uc)
    with PvMmio(uc, stage2="pr") as pv, EventFd(blocking=False) as bell:
        uc.reg_write(pv.arch.register("r4"), 0x5010)
        pv.ioeventfd(bell, device + 0x10, 4)
        uc.emu_start(code, code + 8)
        assert [(e.address, e.route, e.steps.fetch, e.steps.decode) for e in pv.exits] == [
            (device + 0x10, Route.IOEVENTFD, 4, 1)
        ] * 2
        assert [exit_.steps.walk for exit_ in pv.exits] == [2, 2]  # one entry each, found at once
        assert bell.read() == 2


MOVED = {"write": {"ept", "npt", "shadow", "hv", "pr"}, "read": {"hv", "pr"}}


@pytest.mark.parametrize("what", ["write", "read"])
def test_pc_is_where_this_hypervisor_has_it_when_user_space_is_asked(
    make_guest: MakeGuest, stage2: str, what: str
) -> None:
    guest = make(make_guest, stage2)
    seen: list[int] = []
    guest.pv.on_userspace(lambda exit_: seen.append(guest.pc))  # type: ignore[func-returns-value]
    line = guest.store() if what == "write" else guest.load()
    start, end = guest.place(line)
    guest.uc.emu_start(start, end)
    assert seen == [end if stage2 in MOVED[what] else start]
    assert guest.pc == end
    assert guest.pv.exits[0].pc == start


def test_a_crossing_load_takes_the_walk_that_the_exit_does_not_spare(make_guest: MakeGuest) -> None:
    """On EPT the exit names the first page; the second has another offset: emulator_can_use_gpa says no."""
    guest = make(make_guest, "ept")
    guest.pv.device(guest.mmio + 0x1000, 0x1000, Registers(0x5566))
    guest.aim(guest.mmio + 0xFFE)
    guest.pv.on_userspace(lambda exit_: 0x1122)
    guest.run(guest.load(4))
    (exit_,) = guest.pv.exits
    assert guest.value == 0x5566_1122
    assert [(a.address - guest.mmio, a.size, str(a.route)) for a in exit_.accesses] == [
        (0xFFE, 2, "userspace"),
        (0x1000, 2, "device"),
    ]
    assert steps(exit_) == (6, 15, 1)
