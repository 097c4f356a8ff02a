"""Keystone with its silences made loud."""

from __future__ import annotations

import threading

import pytest

from pvmmio_uc import AssemblyError
from pvmmio_uc.assembler import DIALECTS, assemble

STORES = {
    "x86-16": ("mov dword ptr [bx], eax", "66 89 07"),
    "x86-32": ("mov dword ptr [ebx], eax", "89 03"),
    "x86-64": ("mov qword ptr [rbx], rax", "48 89 03"),
    "arm64": ("str w0, [x1, #4]", "20 04 00 b9"),
    "ppc": ("stw 3, 8(4)", "90 64 00 08"),
    "ppc64": ("std 3, 8(4)", "f8 64 00 08"),
}


def test_every_dialect_has_a_store_here() -> None:
    assert STORES.keys() == DIALECTS.keys()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bytes(dialect: str) -> None:
    text, code = STORES[dialect]
    assert assemble(dialect, text).hex(" ") == code


@pytest.mark.parametrize("dialect", DIALECTS)
def test_comments_and_separators(dialect: str) -> None:
    store, code = STORES[dialect]
    for text in (
        f"{store}  # what it does",
        f"# before\n   // and more\n{store} // behind",
        f"\n\n{store};\n;",
    ):
        assert assemble(dialect, text).hex(" ") == code
    assert assemble(dialect, f"{store}; {store}\n{store}").hex(" ") == " ".join([code] * 3)


def test_an_arm64_immediate_is_no_comment() -> None:
    assert assemble("arm64", "add x0, x0, #2 # two") == bytes.fromhex("00 08 00 91")


def test_labels_and_the_address() -> None:
    assert assemble("x86-64", "again: nop; jmp again", 0x1000) == bytes.fromhex("90 eb fd")
    assert assemble("arm64", "again:\nnop\nb again", 0x4000_0000) == bytes.fromhex("1f2003d5 ffffff17")
    assert assemble("ppc", "again:\nstw 3, 0(4)\nbdnz again", 0x1000) == bytes.fromhex("90640000 4200fffc")
    assert assemble("x86-64", "jmp 0x1010", 0x1000) == bytes.fromhex("eb 0e")


@pytest.mark.parametrize(
    ("dialect", "text", "word"),
    [
        ("x86-64", "nop\nbogus eax", "bogus eax"),
        ("x86-64", "mov eax, [nowhere]", "nowhere"),
        ("x86-64", "", "no bytes"),
        ("x86-64", "# only words", "no bytes"),
        ("arm64", "ldadd w0, w1, [x2]", "ldadd"),
        ("arm64", "mov x0, #0x12345678", "mov x0"),
        ("ppc", "li r3, 1", "li r3"),
    ],
)
def test_what_keystone_refuses(dialect: str, text: str, word: str) -> None:
    with pytest.raises(AssemblyError, match=dialect) as caught:
        assemble(dialect, text)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("ppc", "stw r3, 8(r4)"),
        ("ppc", "stw 3, 0(4)\nstw r3, 8(r4)"),
        ("ppc", ".long 5"),
        ("x86-64", "nop\nmov dword ptr\nnop"),
    ],
)
def test_what_keystone_passes_over_in_silence(
    dialect: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssemblyError, match="1: "):
        assemble(dialect, text)
    capfd.readouterr()  # Keystone tells its standard error


@pytest.mark.parametrize("text", ["rep stosb", "lock inc dword ptr [rax]", 'x: .ascii "a;b: c"'])
def test_what_only_looks_like_several_statements(text: str) -> None:
    assert assemble("x86-64", text)


def test_a_dialect_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"'mips': there are x86-16, .*ppc"):
        assemble("mips", "nop")


def test_threads_have_assemblers_of_their_own() -> None:
    """Sharing one crashes the process."""
    results: list[bytes] = []

    def work() -> None:
        for _ in range(50):
            results.extend(assemble(dialect, text) for dialect, (text, _) in STORES.items())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 * 50 * len(STORES)
    assert len(set(results)) == len(STORES)
