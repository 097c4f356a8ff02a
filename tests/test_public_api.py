"""What the package offers: names that are there, documented, and found from outside."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import pvmmio_uc

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(pvmmio_uc.__path__, "pvmmio_uc.")
    if not name.endswith("__main__")
]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def documented(thing: object) -> bool:
    return bool((inspect.getdoc(thing) or "").strip())


def public_members(cls: type) -> list[tuple[str, object]]:
    """Methods and properties that a class defines itself, but for special ones."""
    return [
        (name, member)
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod))
    ]


def test_the_public_list_is_sorted_and_complete() -> None:
    names = [name for name in pvmmio_uc.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert len(set(pvmmio_uc.__all__)) == len(pvmmio_uc.__all__)
    loose = {
        name
        for name, thing in vars(pvmmio_uc).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }
    assert loose == set(names)


def test_a_star_import_brings_them() -> None:
    names: dict[str, object] = {}
    exec("from pvmmio_uc import *", names)
    assert set(pvmmio_uc.__all__) <= names.keys()


@pytest.mark.parametrize("name", [name for name in pvmmio_uc.__all__ if name != "__version__"])
def test_everything_public_has_a_docstring(name: str) -> None:
    thing = getattr(pvmmio_uc, name)
    assert documented(thing)
    if inspect.isclass(thing):
        missing = [member for member, value in public_members(thing) if not documented(value)]
        assert missing == []


def test_every_module_says_what_it_is_and_what_it_offers(module: ModuleType) -> None:
    assert documented(module)
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), name
    assert len(set(getattr(module, "__all__", []))) == len(getattr(module, "__all__", []))


def test_errors_are_one_tree() -> None:
    errors = [
        getattr(pvmmio_uc, name)
        for name in pvmmio_uc.__all__
        if inspect.isclass(getattr(pvmmio_uc, name)) and issubclass(getattr(pvmmio_uc, name), Exception)
    ]
    warnings = [error for error in errors if issubclass(error, Warning)]
    assert warnings == [pvmmio_uc.NeverFires]
    for error in set(errors) - set(warnings):
        assert issubclass(error, pvmmio_uc.PvMmioError)
    assert issubclass(pvmmio_uc.RegistrationError, OSError)


@pytest.mark.parametrize("module_name", ["bus", "ioeventfd", "coalesced", "eventfd", "errors", "exits", "vm"])
def test_the_ground_floor_imports_no_engine(module_name: str) -> None:
    """KVM's objects work, and are tested, without Unicorn."""
    code = (
        "import sys, types; package = types.ModuleType('pvmmio_uc');"
        f"package.__path__ = {list(pvmmio_uc.__path__)!r}; sys.modules['pvmmio_uc'] = package;"
        f"import pvmmio_uc.{module_name};"
        "print(sorted({'unicorn', 'keystone', 'capstone', 'rich'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
