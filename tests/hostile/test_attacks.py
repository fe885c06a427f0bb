"""No attack escapes, none ends in a server error, none takes two seconds of CPU.

`make test-hostile` sends all of them, the suite a slice.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.hostile import files, framings, request_bombs, strings
from tests.hostile.target import Attack, Count, Target

pytestmark = pytest.mark.slow

Campaign = Callable[[Target, int], Iterator[Attack]]
# The share of the attacks that the suite sends: one of so many.
CAMPAIGNS: dict[str, tuple[Campaign, int]] = {
    "strings": (strings.attacks, 211),
    "bombs": (request_bombs.attacks, 7),
    "framings": (framings.attacks, 3),
    "files": (files.attacks, 13),
}


def attack(name: str, target: Target, counts: list[Count], share: int) -> None:
    campaign, _ = CAMPAIGNS[name]
    count = target.fire(name, campaign(target, share))
    counts.append(count)
    assert count.is_clean, count
    assert target.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_slice_of_the_attacks(name: str, target: Target, counts: list[Count]) -> None:
    attack(name, target, counts, share=CAMPAIGNS[name][1])


@pytest.mark.hostile
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_all_attacks(name: str, target: Target, counts: list[Count]) -> None:
    attack(name, target, counts, share=1)
