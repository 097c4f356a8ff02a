"""The data of the device tree's properties, word by word."""

from __future__ import annotations

import pytest

from pvmmio_uc.hypercall import devicetree


def test_the_instructions_to_call_with() -> None:
    assert devicetree.hcall_instructions("hv").hex(" ", 4) == "44000022 60000000 60000000 60000000"
    assert devicetree.hcall_instructions("pr").hex(" ", 4) == "3c004b56 60004d21 44000002 60000000"
    with pytest.raises(ValueError, match="stage2='ept': ppc takes 'hv', 'pr'"):
        devicetree.hcall_instructions("ept")


def test_the_nodes() -> None:
    assert devicetree.hypervisor_node("hv") == {
        "compatible": b"linux,kvm\0",
        "hcall-instructions": devicetree.hcall_instructions("hv"),
        "has-idle": b"",
    }
    assert devicetree.rtas_node() == {
        "ibm,hypertas-functions": b"hcall-debug\0",
        "qemu,hypertas-functions": b"hcall-memop1\0hcall-ci-list\0",
    }
    assert devicetree.rtas_node(offered=False)["qemu,hypertas-functions"] == b"hcall-memop1\0"
