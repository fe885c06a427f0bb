"""Values of a request that have several keys: of this service, and of NVIDIA's current manifest."""

from collections.abc import Iterator
from typing import Any

from trainer.config.current_manifest import ABSENT, Spelling, translated_key
from worker.planning.request_guards import rejection


class Spellings:
    """The keys by which one part of a request sets such values. Two different keys must agree."""

    def __init__(self, *, across: bool = True) -> None:
        """across: whether keys at different places of the request must agree, too."""
        self._across = across
        self._known: dict[str, tuple[str, Spelling]] = {}

    def add(self, one: Spelling, where: str) -> bool:
        """Add a value at a place of the request. Return whether the caller sets it at its key here.

        An implied value yields to a written one. Raises InvalidSpec if another key has another value.
        """
        at, known = self._known.get(one.own, (where, one))
        if one.implied and not known.implied:
            return False
        differs = known.written != one.written and known.value != one.value
        if differs and not known.implied and (self._across or at == where):
            detail = f"{known.written} ({at}) and {one.written} ({where}) mean the same and differ."
            raise rejection(where, "contradiction", detail, "Set only one of them.")
        self._known[one.own] = (where, one)
        return one.moved

    def settings(self, where: str, key: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield an override as settings of this service's keys. Raises InvalidSpec: see add."""
        rest, found = translated_key(key, value)
        if rest is not ABSENT:
            yield key, rest
        for one in found:
            if self.add(one, where):
                yield one.own, one.value
