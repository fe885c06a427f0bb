"""Concurrent calls from many threads."""

import threading
from collections.abc import Callable
from typing import Any


def at_once(number: int, call: Callable[[], Any]) -> list[Any]:
    """Call from many threads that start together. Returns results and exceptions."""
    barrier = threading.Barrier(number)
    answers: list[Any] = []

    def run() -> None:
        barrier.wait()
        try:
            answers.append(call())
        except Exception as error:
            answers.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
