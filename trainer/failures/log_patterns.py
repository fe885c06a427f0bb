"""The signs that failures leave in logs. Pure, whatever the bytes."""

import re
from dataclasses import dataclass

from trainer.failures.known import FAILURES, Weight
from trainer.failures.rules import RULES

MAX_LINE_CHARACTERS = 500
MAX_LAST_LINES = 10


@dataclass(frozen=True)
class LogTail:
    """The end of a log."""

    rank: int | None
    """Whose it is; None: that of the whole attempt, launcher included."""
    offset: int
    """Where in the log `data` begins."""
    data: bytes

    def last_lines(self) -> list[str]:
        """The last lines that say anything, cleaned."""
        lines = (_clean(line) for line in _without_quotes(self.data).splitlines()[-10 * MAX_LAST_LINES :])
        return [line for line in lines if line][-MAX_LAST_LINES:]

    def line(self, begin: int, end: int) -> str:
        """A line of `data`, cleaned."""
        return _clean(self.data[begin:end])

    def find(self, text: str) -> tuple[int, int] | None:
        """Begin and end, in `data`, of the last line that holds a text; None where none does."""
        if not text:
            return None
        place = _without_quotes(self.data).rfind(text.encode(errors="replace"))
        return _line_around(self.data, place, place) if place >= 0 else None


@dataclass(frozen=True)
class LogMatch:
    """Something in a log that tells why a run ended."""

    name: str
    """Of FAILURES."""
    rank: int | None
    offset: int
    """First byte of the decisive lines in the log: a traceback, or one line."""
    limit: int
    """Their number of bytes."""
    line: str

    @property
    def weight(self) -> Weight:
        return FAILURES[self.name].weight


_MARK = re.compile(rb"^\[rank\d+\]: ")

# From its first line to its exception's; the lines between are indented.
_TRACEBACK = re.compile(
    rb"^(?P<mark>(?:\[rank\d+\]: )?)Traceback \(most recent call last\):\n"
    rb"(?:(?P=mark) [^\n]*\n)+(?P=mark)(?P<error>[A-Za-z_][^\n]*)",
    re.MULTILINE,
)


def match_log(log: LogTail) -> list[LogMatch]:
    """All that a log says of the end of its run, what explains most first."""
    text = _without_quotes(log.data)
    tracebacks = [
        (found.start(), found.end("error"))
        for found in _TRACEBACK.finditer(text)
        if b"ChildFailedError" not in found["error"]  # torchrun's: it only lists who failed
    ]
    found = [sign for rule in RULES if (sign := _first(log, text, rule, tracebacks))]
    if tracebacks and not _is_explained(text[slice(*tracebacks[-1])]):
        begin, end = tracebacks[-1]  # earlier ones may have been caught
        found.append(_sign("user_code", log, (begin, end), end))
    return sorted(found, key=lambda sign: (sign.weight, sign.offset))


def name_of(text: str) -> str:
    """The name of the failure that a traceback, or another message, tells of; `user_code` for others."""
    told = match_log(LogTail(None, 0, text.encode(errors="replace")))
    return told[0].name if told else "user_code"


def _first(
    log: LogTail, text: bytes, rule: tuple[str, re.Pattern[bytes]], tracebacks: list[tuple[int, int]]
) -> LogMatch | None:
    name, pattern = rule
    match = pattern.search(text)
    if match is None:
        return None
    around = next((place for place in tracebacks if place[0] <= match.end() <= place[1]), None)
    if around is None:
        return _sign(name, log, _line_around(text, match.start(), match.end()), match.end())
    # An exception's own line tells more than the line of code that raised it, if it says anything.
    first, last = _line_around(text, around[1], around[1])
    says_something = b": " in _MARK.sub(b"", text[first:last])
    return _sign(name, log, around, around[1] if says_something else match.end())


def _is_explained(text: bytes) -> bool:
    return any(pattern.search(text) for _, pattern in RULES)


def _sign(name: str, log: LogTail, place: tuple[int, int], decisive: int) -> LogMatch:
    """decisive: a byte, counted in the tail, of the line that says it."""
    begin, end = place
    first, last = _line_around(log.data, decisive, decisive)
    return LogMatch(name, log.rank, log.offset + begin, end - begin, _clean(log.data[first:last]))


def _line_around(text: bytes, begin: int, end: int) -> tuple[int, int]:
    following = text.find(b"\n", end)
    return text.rfind(b"\n", 0, begin) + 1, following if following >= 0 else len(text)


# Event lines, and the line in which Bridge says what exception it passes on.
_QUOTES = re.compile(
    rb"SFT_EVENT(?:_PART [^\n]*| \{[^\n]*)|ERROR:megatron\.bridge\.training\.pretrain:Pretrain failed[^\n]*"
)


def _without_quotes(text: bytes) -> bytes:
    """The text with what quotes other lines blanked out. Every byte keeps its place."""
    return _QUOTES.sub(lambda match: b" " * len(match[0]), text)


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _clean(line: bytes) -> str:
    return clean(line[: 8 * MAX_LINE_CHARACTERS].decode(errors="replace"))


def clean(line: str) -> str:
    """A line that is fit to be stored and shown: no control characters, of bounded length."""
    text = _ESCAPE.sub("", line[: 8 * MAX_LINE_CHARACTERS])
    text = _CONTROL.sub("\ufffd", text.rstrip()).rstrip()
    return text if len(text) <= MAX_LINE_CHARACTERS else text[: MAX_LINE_CHARACTERS - 1] + "…"
