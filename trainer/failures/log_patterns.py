"""Find log patterns of failures. Pure, and safe for any bytes."""

import re
from dataclasses import dataclass

from trainer.failures.catalog import FAILURES, Precedence
from trainer.failures.rules import RULES

MAX_LINE_CHARACTERS = 500
MAX_LAST_LINES = 10


@dataclass(frozen=True)
class LogTail:
    """The end of a log."""

    rank: int | None
    """Rank whose log it is; None for the log of the complete attempt, launcher included."""
    offset: int
    """Position of `data` in the log, in bytes."""
    data: bytes

    def last_lines(self) -> list[str]:
        """The last lines that are not empty, cleaned."""
        lines = (_clean(line) for line in _without_quotes(self.data).splitlines()[-10 * MAX_LAST_LINES :])
        return [line for line in lines if line][-MAX_LAST_LINES:]

    def line(self, begin: int, end: int) -> str:
        """A line of `data`, cleaned."""
        return _clean(self.data[begin:end])

    def find(self, text: str) -> tuple[int, int] | None:
        """Begin and end, in `data`, of the last line that contains a text; None if no line does."""
        if not text:
            return None
        place = _without_quotes(self.data).rfind(text.encode(errors="replace"))
        return _line_around(self.data, place, place) if place >= 0 else None


@dataclass(frozen=True)
class LogMatch:
    """A match of a log pattern: evidence of why a run ended."""

    name: str
    """Name in FAILURES."""
    rank: int | None
    offset: int
    """Position of the decisive lines in the log, in bytes. They are a traceback or a single line."""
    limit: int
    """Length of the decisive lines in bytes."""
    line: str

    @property
    def precedence(self) -> Precedence:
        return FAILURES[self.name].precedence


_MARK = re.compile(rb"^\[rank\d+\]: ")

# From the first line to the line of the exception. The lines between are indented.
_TRACEBACK = re.compile(
    rb"^(?P<mark>(?:\[rank\d+\]: )?)Traceback \(most recent call last\):\n"
    rb"(?:(?P=mark) [^\n]*\n)+(?P=mark)(?P<error>[A-Za-z_][^\n]*)",
    re.MULTILINE,
)


def match_log(log: LogTail) -> list[LogMatch]:
    """Return all matches in a log, the best explanation first."""
    text = _without_quotes(log.data)
    tracebacks = [
        (found.start(), found.end("error"))
        for found in _TRACEBACK.finditer(text)
        if b"ChildFailedError" not in found["error"]  # raised by torchrun, and only lists the failed ranks
    ]
    found = [match for rule in RULES if (match := _first_match(log, text, rule, tracebacks))]
    if tracebacks and not _is_explained(text[slice(*tracebacks[-1])]):
        begin, end = tracebacks[-1]  # earlier exceptions may have been caught
        found.append(_log_match("user_code", log, (begin, end), end))
    return sorted(found, key=lambda match: (match.precedence, match.offset))


def classify(text: str) -> str:
    """Name of the failure in a traceback or another message; `user_code` if no pattern matches."""
    matches = match_log(LogTail(None, 0, text.encode(errors="replace")))
    return matches[0].name if matches else "user_code"


def _first_match(
    log: LogTail, text: bytes, rule: tuple[str, re.Pattern[bytes]], tracebacks: list[tuple[int, int]]
) -> LogMatch | None:
    name, pattern = rule
    match = pattern.search(text)
    if match is None:
        return None
    around = next((place for place in tracebacks if place[0] <= match.end() <= place[1]), None)
    if around is None:
        return _log_match(name, log, _line_around(text, match.start(), match.end()), match.end())
    # The line of the exception explains more than the line of code that raised it, if it has a message.
    first, last = _line_around(text, around[1], around[1])
    has_message = b": " in _MARK.sub(b"", text[first:last])
    return _log_match(name, log, around, around[1] if has_message else match.end())


def _is_explained(text: bytes) -> bool:
    return any(pattern.search(text) for _, pattern in RULES)


def _log_match(name: str, log: LogTail, place: tuple[int, int], decisive: int) -> LogMatch:
    """Build a match. decisive: position, in the tail, of a byte of the decisive line."""
    begin, end = place
    first, last = _line_around(log.data, decisive, decisive)
    return LogMatch(name, log.rank, log.offset + begin, end - begin, _clean(log.data[first:last]))


def _line_around(text: bytes, begin: int, end: int) -> tuple[int, int]:
    following = text.find(b"\n", end)
    return text.rfind(b"\n", 0, begin) + 1, following if following >= 0 else len(text)


# Event lines, and the line in which Bridge logs the exception that it raises again.
_QUOTES = re.compile(
    rb"SFT_EVENT(?:_PART [^\n]*| \{[^\n]*)|ERROR:megatron\.bridge\.training\.pretrain:Pretrain failed[^\n]*"
)


def _without_quotes(text: bytes) -> bytes:
    """Replace quotations of other lines by spaces. Every byte keeps its position."""
    return _QUOTES.sub(lambda match: b" " * len(match[0]), text)


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _clean(line: bytes) -> str:
    return clean(line[: 8 * MAX_LINE_CHARACTERS].decode(errors="replace"))


def clean(line: str) -> str:
    """Make a line safe to store and show: no control characters, bounded length."""
    text = _ESCAPE.sub("", line[: 8 * MAX_LINE_CHARACTERS])
    text = _CONTROL.sub("\ufffd", text.rstrip()).rstrip()
    return text if len(text) <= MAX_LINE_CHARACTERS else text[: MAX_LINE_CHARACTERS - 1] + "…"
