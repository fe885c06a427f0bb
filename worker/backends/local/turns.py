"""The order in which waiting runs start: projects take turns, and a project's own runs keep their order.

DIR/local/CLUSTER.turns   JSON: project -> when it last started a run, as a count
"""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class SpooledRun(NamedTuple):
    """A run that has not ended."""

    name: str
    project: str
    was_started: bool


@dataclass(frozen=True)
class Turns:
    """The turns of the projects on one cluster."""

    path: Path

    def order(self, spooled: Iterable[SpooledRun]) -> list[str]:
        """Return names of the runs that wait, next first. spooled: in the order of their submission.

        The next run is of the project that has the fewest runs; of these, of the one served least recently.
        """
        turns, runs = Counter(self._read()), Counter[str]()
        waiting: dict[str, deque[str]] = {}
        for run in spooled:
            if run.was_started:
                runs[run.project] += 1
            else:
                waiting.setdefault(run.project, deque()).append(run.name)
        return list(_take_turns(waiting, runs, turns))

    def serve(self, project: str, present: set[str]) -> None:
        """Record that a project starts a run. Only projects that are present are kept."""
        turns = {name: turn for name, turn in self._read().items() if name in present}
        turns[project] = max(turns.values(), default=0) + 1
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(turns))
        fresh.rename(self.path)

    def _read(self) -> dict[str, int]:
        try:
            turns: dict[str, int] = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):  # nobody was served, or a full disk has cut it
            return {}
        return turns


def _take_turns(waiting: dict[str, deque[str]], runs: Counter[str], turns: Counter[str]) -> Iterator[str]:
    while waiting:
        project = min(waiting, key=lambda one: (runs[one], turns[one]))
        yield waiting[project].popleft()
        runs[project] += 1
        turns[project] = max(turns.values(), default=0) + 1
        if not waiting[project]:
            del waiting[project]
