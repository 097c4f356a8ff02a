"""The matrix of guests: every variant, every stage 2 and both ways to decode, by fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.machine import ARCHITECTURES
from pvmmio_uc.plugin import Decode

from .plugin_guests import DECODES, VARIANTS, Guest, variant_name

MakeGuest = Callable[..., Guest]


@pytest.fixture
def make_guest() -> Iterator[MakeGuest]:
    """Guests to order, detached when the test is over."""
    made: list[Guest] = []

    def make(*arguments: object, **options: object) -> Guest:
        made.append(Guest(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for guest in made:
        guest.machine.close()


@pytest.fixture(params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    """Each architecture, for what does not depend on the variant."""
    name: str = request.param
    return name


@pytest.fixture(params=DECODES)
def decode(request: pytest.FixtureRequest) -> Decode:
    """Both ways to decode."""
    name: Decode = request.param
    return name


@pytest.fixture(params=VARIANTS, ids=map(variant_name, VARIANTS))
def variant(request: pytest.FixtureRequest) -> tuple[str, Variant]:
    """Each guest: architecture, bits, paging, byte order."""
    case: tuple[str, Variant] = request.param
    return case


@pytest.fixture
def guest(make_guest: MakeGuest, arch: str, decode: Decode) -> Guest:
    """One guest of each architecture, decoded both ways."""
    return make_guest(arch, decode=decode)


@pytest.fixture
def any_guest(make_guest: MakeGuest, variant: tuple[str, Variant], decode: Decode) -> Guest:
    """Every variant, decoded both ways, on its first stage 2."""
    return make_guest(*variant, decode=decode)


@pytest.fixture
def bell() -> Iterator[EventFd]:
    """An eventfd that does not block."""
    with EventFd(blocking=False) as eventfd:
        yield eventfd
