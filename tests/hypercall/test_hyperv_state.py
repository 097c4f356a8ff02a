"""The partition: MSRs with their rules, what enabling writes into RAM, what CPUID announces."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from pvmmio_uc.hypercall.hyperv_state import (
    KVM_CPUID_BESIDE_HYPERV,
    KVM_RULES,
    OPENVMM_RULES,
    TLFS_RULES,
    HyperVFeatures,
    HyperVState,
    MsrFault,
    MsrRules,
)

from .fakes import RAM, RAM_SIZE, ROM, U64, Board, FakeMemory

OS_ID, HYPERCALL, VP_INDEX = 0x4000_0000, 0x4000_0001, 0x4000_0002
PAGE = RAM + 0x4000
LINUX_ID = 0x8100_0000_0006_0C00
RULES = {"kvm": KVM_RULES, "tlfs": TLFS_RULES, "openvmm": OPENVMM_RULES}


def memory() -> FakeMemory:
    return Board().memory


def partition(rules: MsrRules = KVM_RULES, os_id: int = LINUX_ID) -> tuple[HyperVState, FakeMemory]:
    ram = memory()
    state = HyperVState(ram, rules=rules)
    if os_id:
        state.write_msr(OS_ID, os_id)
    return state, ram


class TestHypercallMsr:
    def test_at_reset(self) -> None:
        state, _ = partition(os_id=0)
        assert state.read_msr(OS_ID) == 0
        assert state.read_msr(HYPERCALL) == 0

    @pytest.mark.parametrize("name", RULES)
    def test_the_ordinary_way(self, name: str) -> None:
        state, ram = partition(RULES[name])
        assert state.read_msr(OS_ID) == LINUX_ID
        assert state.write_msr(HYPERCALL, PAGE | 1)
        assert state.read_msr(HYPERCALL) == PAGE | 1
        assert ram.writes == [(PAGE, b"\x0f\x01\xc1\xc3")]

    @pytest.mark.parametrize(
        ("name", "left", "written"), [("kvm", 0, False), ("tlfs", PAGE, False), ("openvmm", PAGE | 1, True)]
    )
    def test_enabling_without_an_os_id(self, name: str, left: int, written: bool) -> None:
        state, ram = partition(RULES[name], os_id=0)
        assert state.write_msr(HYPERCALL, PAGE | 1)
        assert state.read_msr(HYPERCALL) == left
        assert bool(ram.writes) is written

    def test_kvm_drops_a_plain_write_without_an_os_id_too(self) -> None:
        state, _ = partition(os_id=0)
        state.write_msr(HYPERCALL, PAGE)
        assert state.read_msr(HYPERCALL) == 0

    @pytest.mark.parametrize("name", RULES)
    @pytest.mark.parametrize(
        "gpa", [ROM, RAM + RAM_SIZE, 0xFEBD_0000, 0x000F_FFFF_FFFF_F000, 0xFFFF_FFFF_FFFF_F000]
    )
    def test_a_page_that_is_not_writable_memory(self, name: str, gpa: int) -> None:
        state, ram = partition(RULES[name])
        with pytest.raises(MsrFault, match=f"no writable memory at {gpa:#x}") as fault:
            state.write_msr(HYPERCALL, gpa | 1)
        assert (fault.value.index, fault.value.value) == (HYPERCALL, gpa | 1)
        assert state.read_msr(HYPERCALL) == 0
        assert ram.writes == []

    @pytest.mark.parametrize("name", RULES)
    def test_a_disabled_msr_takes_any_page(self, name: str) -> None:
        state, ram = partition(RULES[name])
        state.write_msr(HYPERCALL, 0xFEBD_0000)
        assert state.read_msr(HYPERCALL) == 0xFEBD_0000
        assert ram.writes == []

    @pytest.mark.parametrize(
        ("name", "left"), [("kvm", PAGE + 0x1001), ("tlfs", PAGE | 3), ("openvmm", None)]
    )
    def test_writing_to_a_locked_msr(self, name: str, left: int | None) -> None:
        state, ram = partition(RULES[name])
        state.write_msr(HYPERCALL, PAGE | 3)
        if left is None:
            with pytest.raises(MsrFault, match="locked"):
                state.write_msr(HYPERCALL, PAGE + 0x1001)
            left = PAGE | 3
        else:
            assert state.write_msr(HYPERCALL, PAGE + 0x1001)
        assert state.read_msr(HYPERCALL) == left
        assert [gpa for gpa, _ in ram.writes] == ([PAGE, PAGE + 0x1000] if name == "kvm" else [PAGE])

    @pytest.mark.parametrize("name", RULES)
    def test_a_reset_unlocks(self, name: str) -> None:
        state, _ = partition(RULES[name])
        state.write_msr(HYPERCALL, PAGE | 3)
        state.reset()
        assert (state.read_msr(OS_ID), state.read_msr(HYPERCALL)) == (0, 0)
        state.write_msr(OS_ID, LINUX_ID)
        state.write_msr(HYPERCALL, PAGE | 1)
        assert state.read_msr(HYPERCALL) == PAGE | 1

    @pytest.mark.parametrize("bit", range(2, 12))
    @pytest.mark.parametrize(("name", "kept"), [("kvm", True), ("tlfs", False), ("openvmm", None)])
    def test_reserved_bits(self, name: str, kept: bool | None, bit: int) -> None:
        state, ram = partition(RULES[name])
        value = PAGE | 1 | 1 << bit
        if kept is None:
            with pytest.raises(MsrFault, match="reserved bits"):
                state.write_msr(HYPERCALL, value)
            assert (state.read_msr(HYPERCALL), ram.writes) == (0, [])
        else:
            state.write_msr(HYPERCALL, value)
            assert state.read_msr(HYPERCALL) == (value if kept else PAGE | 1)
            assert [gpa for gpa, _ in ram.writes] == [PAGE]

    @pytest.mark.parametrize(("name", "left"), [("kvm", PAGE), ("tlfs", PAGE), ("openvmm", PAGE | 1)])
    def test_an_os_id_of_zero_disables(self, name: str, left: int) -> None:
        state, ram = partition(RULES[name])
        state.write_msr(HYPERCALL, PAGE | 1)
        state.write_msr(OS_ID, 0)
        assert state.read_msr(HYPERCALL) == left
        assert ram.read(PAGE, 4) == b"\x0f\x01\xc1\xc3"  # the bytes stay
        assert len(ram.writes) == 1

    def test_another_os_id_leaves_the_page_enabled(self) -> None:
        state, _ = partition()
        state.write_msr(HYPERCALL, PAGE | 1)
        state.write_msr(OS_ID, 5)
        assert state.read_msr(HYPERCALL) == PAGE | 1

    def test_enabling_again_writes_again(self) -> None:
        state, ram = partition()
        state.write_msr(HYPERCALL, PAGE | 1)
        state.write_msr(HYPERCALL, PAGE)
        assert state.read_msr(HYPERCALL) == PAGE
        ram.write(PAGE, bytes(4))
        state.write_msr(HYPERCALL, PAGE | 1)
        assert ram.read(PAGE, 4) == b"\x0f\x01\xc1\xc3"

    def test_the_first_page_of_memory(self) -> None:
        ram = FakeMemory({0: 0x1000})
        state = HyperVState(ram)
        state.write_msr(OS_ID, 1)
        state.write_msr(HYPERCALL, 1)
        assert ram.read(0, 4) == b"\x0f\x01\xc1\xc3"

    def test_values_have_64_bits(self) -> None:
        state, _ = partition()
        state.write_msr(OS_ID, U64)
        assert state.read_msr(OS_ID) == U64
        state.write_msr(OS_ID, 1 << 64)
        assert state.read_msr(OS_ID) == 0


class TestOtherMsrs:
    def test_the_index_of_the_virtual_processor(self) -> None:
        state, _ = partition()
        assert state.read_msr(VP_INDEX) == 0
        assert state.read_msr(VP_INDEX, 3) == 3
        with pytest.raises(MsrFault, match="read only"):
            state.write_msr(VP_INDEX, 0)

    @pytest.mark.parametrize("index", [0, 0x10, 0x3FFF_FFFF, 0x4000_0003, 0x4000_0080, 0xC000_0080])
    def test_not_hyperv(self, index: int) -> None:
        state, _ = partition()
        assert state.read_msr(index) is None
        assert state.write_msr(index, 1) is False

    @pytest.mark.parametrize("index", [OS_ID, HYPERCALL, VP_INDEX])
    def test_without_the_leaves_there_are_no_msrs(self, index: int) -> None:
        state, ram = partition()
        state.present = False
        assert state.read_msr(index) is None
        assert state.write_msr(index, PAGE | 1) is False
        assert ram.writes == []
        state.present = True
        assert state.read_msr(OS_ID) == LINUX_ID

    @pytest.mark.parametrize("enforce", [False, True])
    def test_unannounced_msrs(self, enforce: bool) -> None:
        features = HyperVFeatures(hypercall_msrs=False, vp_index_msr=False)
        state = HyperVState(memory(), features=features, enforce=enforce)
        for index in (OS_ID, HYPERCALL, VP_INDEX):
            assert (state.read_msr(index) is None) is enforce
        assert state.write_msr(OS_ID, 1) is not enforce

    def test_a_fault_says_what_was_written(self) -> None:
        state, _ = partition(OPENVMM_RULES)
        with pytest.raises(MsrFault, match=r"wrmsr 0x40000001 with 0x14005: #GP\(0\): reserved bits 0x4"):
            state.write_msr(HYPERCALL, PAGE | 5)


class TestThePage:
    @pytest.mark.parametrize(
        ("native", "xen", "code"),
        [
            ("vmcall", False, "0f01c1c3"),
            ("vmmcall", False, "0f01d9c3"),
            ("vmcall", True, "0d000000800f01c1c3"),
            ("vmmcall", True, "0d000000800f01d9c3"),
        ],
    )
    def test_contents(self, native: str, xen: bool, code: str) -> None:
        ram = memory()
        ram.write(PAGE, b"\xaa" * 0x1000)
        state = HyperVState(ram, native=native, xen=xen)
        state.write_msr(OS_ID, 1)
        state.write_msr(HYPERCALL, PAGE | 1)
        expected = bytes.fromhex(code)
        assert ram.read(PAGE, 0x1000) == expected + b"\xaa" * (0x1000 - len(expected))

    def test_an_unknown_instruction(self) -> None:
        with pytest.raises(ValueError, match="vmcall"):
            HyperVState(memory(), native="hvc")


class TestCpuid:
    def test_signatures(self) -> None:
        state = HyperVState(memory())
        assert state.cpuid(0x4000_0000) == (0x4000_0006, 0x7263_694D, 0x666F_736F, 0x7648_2074)
        assert state.cpuid(0x4000_0001) == (0x3123_7648, 0, 0, 0)

    def test_the_kernels_own_vendor(self) -> None:
        leaf = HyperVState(memory(), vendor="Linux KVM Hv").cpuid(0x4000_0000)
        assert leaf is not None
        assert b"".join(word.to_bytes(4, "little") for word in leaf[1:]) == b"Linux KVM Hv"

    @pytest.mark.parametrize("vendor", ["", "Microsoft", "Microsoft Hv!"])
    def test_a_vendor_has_12_characters(self, vendor: str) -> None:
        with pytest.raises(ValueError, match="12"):
            HyperVState(memory(), vendor=vendor)

    @pytest.mark.parametrize("leaf", [0, 1, 0x3FFF_FFFF, 0x4000_0007, 0x4000_00FF, 0x4000_0100, 0x8000_0000])
    def test_other_leaves(self, leaf: int) -> None:
        assert HyperVState(memory()).cpuid(leaf) is None

    def test_every_leaf(self) -> None:
        state = HyperVState(memory())
        leaves = [state.cpuid(0x4000_0000 + index) for index in range(7)]
        assert leaves[2] == (0x3839, 0x000A_0000, 0, 0)
        assert leaves[3] == (1 << 5 | 1 << 6, 1 << 4 | 1 << 5 | 1 << 20, 0, 1 << 4 | 1 << 15)
        assert leaves[4] == (1 << 21, 0xFFFF_FFFF, 0, 0)
        assert leaves[5] == (64, 64, 0, 0)
        assert leaves[6] == (0, 0, 0, 0)

    @pytest.mark.parametrize(
        ("feature", "leaf", "register", "bit"),
        [
            ("hypercall_msrs", 3, 0, 5),
            ("vp_index_msr", 3, 0, 6),
            ("post_messages", 3, 1, 4),
            ("signal_events", 3, 1, 5),
            ("extended", 3, 1, 20),
            ("xmm_input", 3, 3, 4),
            ("xmm_output", 3, 3, 15),
            ("mmio", 4, 0, 21),
        ],
    )
    def test_a_feature_taken_away_is_one_bit_less(
        self, feature: str, leaf: int, register: int, bit: int
    ) -> None:
        state = HyperVState(memory())
        before = [state.cpuid(0x4000_0000 + index) for index in range(7)]
        state.features = replace(state.features, **{feature: False})
        after = [state.cpuid(0x4000_0000 + index) for index in range(7)]
        row = before[leaf]
        assert row is not None
        assert row[register] >> bit & 1
        changed = list(row)
        changed[register] -= 1 << bit
        before[leaf] = (changed[0], changed[1], changed[2], changed[3])
        assert after == before

    def test_no_feature_at_all(self) -> None:
        none = HyperVFeatures(**{field.name: False for field in fields(HyperVFeatures)})
        state = HyperVState(memory(), features=none)
        assert state.cpuid(0x4000_0003) == (0, 0, 0, 0)
        assert state.cpuid(0x4000_0004) == (0, 0xFFFF_FFFF, 0, 0)
        assert state.cpuid(0x4000_0001) == (0x3123_7648, 0, 0, 0)

    def test_withdrawn_calls_are_not_announced(self) -> None:
        state = HyperVState(memory())
        state.offered = False
        assert state.cpuid(0x4000_0004) == (0, 0xFFFF_FFFF, 0, 0)
        assert state.cpuid(0x4000_0003) == HyperVState(memory()).cpuid(0x4000_0003)
        state.offered = True
        assert state.cpuid(0x4000_0004) == (1 << 21, 0xFFFF_FFFF, 0, 0)

    @pytest.mark.parametrize(("name", "available"), [("kvm", 0), ("tlfs", 1), ("openvmm", 1)])
    def test_the_lock_is_announced_where_it_works(self, name: str, available: int) -> None:
        leaf = HyperVState(memory(), rules=RULES[name]).cpuid(0x4000_0003)
        assert leaf is not None
        assert leaf[3] >> 18 & 1 == available

    def test_without_the_leaves_there_is_nothing(self) -> None:
        state = HyperVState(memory())
        state.present = False
        assert [state.cpuid(0x4000_0000 + index) for index in range(7)] == [None] * 7

    def test_kvm_steps_aside(self) -> None:
        """The bases are scanned in steps of 0x100, and none of the Hyper-V leaves is in KVM's way."""
        assert KVM_CPUID_BESIDE_HYPERV == 0x4000_0100
        assert HyperVState(memory()).cpuid(KVM_CPUID_BESIDE_HYPERV) is None
