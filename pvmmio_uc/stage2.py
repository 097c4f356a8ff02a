"""The host's translation as data: which steps an exit takes on it, and whether the fast bus is asked.

Source: arch/x86/kvm/vmx/vmx.c (handle_ept_misconfig), svm/svm.c (npf_interception), mmu/mmu.c
(handle_mmio_page_fault); arch/arm64/kvm/mmio.c (io_mem_abort); arch/powerpc/kvm/book3s_64_mmu_hv.c
(kvmppc_hv_emulate_mmio), book3s_pr.c. docs/fidelity.md has the table in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PROFILES", "STAGE2_KINDS", "Profile", "Stage2"]


@dataclass(frozen=True, slots=True)
class Stage2:
    """One kind of stage 2.

    * ``fast``: for which accesses the fast bus can be asked, where the profile asks it
    * ``first_touch``: the first access to a page is slow and only the next ones can be fast
    * ``knows_gpa``: the exit reports the guest-physical address, so data needs no page walk
    * ``has_bytes``: the exit supplies the instruction bytes, so nothing is fetched
    * ``has_syndrome``: the exit describes the access, so nothing is fetched or decoded
    * ``has_length``: a fast hit can skip the instruction without looking at it
    * ``moves_pc``: which accesses have pc behind the instruction when user space sees the exit
    """

    name: str
    arch: str
    fast: Literal["any", "write"]
    first_touch: bool
    knows_gpa: bool
    has_bytes: bool
    has_syndrome: bool
    has_length: bool
    moves_pc: Literal["write", "all", "none"]


STAGE2_KINDS = {
    kind.name: kind
    for kind in (
        Stage2("ept", "x86", "any", True, True, False, False, True, "write"),
        Stage2("npt", "x86", "any", True, True, True, False, True, "write"),
        Stage2("shadow", "x86", "write", True, False, False, False, False, "write"),
        Stage2("stage2", "arm64", "write", False, True, False, True, True, "none"),
        Stage2("hv", "ppc", "write", False, True, False, False, True, "all"),
        Stage2("pr", "ppc", "write", False, False, False, False, True, "all"),
    )
}
"""Every kind by name. Decode assists (``npt``) and next_rip are taken as present."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Which kinds of stage 2 ask the fast bus."""

    name: str
    asks: frozenset[str]
    about: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "rfc-2013", frozenset({"ept"}), "the patch of April 2013: EPT only, all else works but slowly"
        ),
        Profile("linux", frozenset({"ept", "npt", "hv"}), "the kernel of today (NPT since 7.0)"),
        Profile("everywhere", frozenset(STAGE2_KINDS), "the mail's TODO done: NPT, MMU and non x86"),
        Profile("off", frozenset(), "no fast bus: a length-0 ioeventfd fires from the ordinary bus"),
    )
}
"""Every profile by name."""
