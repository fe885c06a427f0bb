"""The signs that failures leave in logs: one table of rules. Pure, whatever the bytes."""

import re
from dataclasses import dataclass

from trainer.failures.known import FAILURES, Weight

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
class Sign:
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


def _rule(name: str, *patterns: str) -> tuple[str, re.Pattern[bytes]]:
    return name, re.compile("|".join(patterns).encode(), re.MULTILINE)


# An exception's line, behind the mark that torch puts before those that nobody caught.
_RAISED = r"^(?:\[rank\d+\]: )?(?:\w+\.)*"

# Where two rules fit one line the first counts.
RULES = (
    _rule(
        "tokenizer_mismatch",
        r"^.{0,300}Assertion `srcIndex < srcSelectDimSize` failed",
        r"^.{0,300}Assertion `t >= 0 && t < n_classes` failed",
        _RAISED + r"IndexError: index out of range in self",
    ),
    _rule(
        "host_oom",
        r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
        _RAISED + r"MemoryError\b",
        r"\[Errno 12\] Cannot allocate memory",
        r"what\(\):\s+std::bad_alloc",
        r"[Uu]nable to (?:mmap|open shared memory object|allocate shared memory)\b",
        r"DataLoader worker \(pid[^\n]{0,80}\) is killed by signal: (?:Killed|Bus error)",
        r"error: Detected \d+ oom[-_]kill event",
        r"^srun: error: .{0,200}: Out Of Memory",
        r"Memory cgroup out of memory: Killed process",
        r"\bOOMKilled\b",
    ),
    _rule(
        "oom",
        r"CUDA out of memory\. Tried to allocate",
        r"CUDA error: out of memory",
        r"\bCUBLAS_STATUS_ALLOC_FAILED\b",
        r"Cuda failure \d* ?'out of memory'",
    ),
    _rule("quota", r"\[Errno 122\] Disk quota exceeded", r"^(?:cp|tee|mkdir): .{0,300}: Disk quota exceeded"),
    _rule(
        "disk_full",
        r"\[Errno 28\] No space left on device",
        r"^(?:cp|tee|mkdir|tar): .{0,300}: No space left on device",
        r"PytorchStreamWriter failed writing file",
    ),
    _rule(
        "node_fail",
        r"CUDA error: uncorrectable ECC error",
        r"CUDA error: (?:hardware|misaligned NVLink|system not yet initialized)",
        r"NVRM: Xid .{0,80}: (?:48|62|63|64|74|79|92|94|95|119|120)\b",
        r"GPU has fallen off the bus",
        r"DUE TO NODE FAILURE",
        r"^srun: error: Node failure on ",
    ),
    _rule("preempted", r"\*\*\* (?:JOB|STEP) .{0,200} DUE TO PREEMPTION"),
    _rule("time_limit", r"\*\*\* (?:JOB|STEP) .{0,200} DUE TO TIME LIMIT"),
    _rule(
        "image_pull",
        r"pyxis: failed to import docker image",
        r"pyxis: .{0,80}\[ERROR\] ",
        r"pyxis: couldn't start container",
        r"\b(?:ImagePullBackOff|ErrImagePull)\b",
        r"\b(?:manifest unknown|pull access denied)\b",
    ),
    _rule(
        "bad_parallel_batch_shape",
        r"world[_ ]size ?\(\d+\) is not divisible by",
        r"[Gg]lobal[_ ]batch[_ ]size \(\d+\) (?:is not|must be) divisible by",
        r"\(\d+\) must be a multiple (?:or divisor )?of tensor",
        r"num_attention_heads .{0,80} must be a multiple of|num_query_groups .{0,80} must be a multiple",
        r"num_layers.{0,80} (?:should|must) be divisible by",
        r"Number of layers .{0,80} divisible by",
        r"num_moe_experts .{0,80} should be divisible by",
        r"[Mm]icro batch size should be 1 when training with packed sequence",
        r"Not enough (?:train|valid|validation|test) samples for a single global batch",
        r"Duplicate GPU detected",
        _RAISED + r"AssertionError: \d+ is not divisible by \d+",
    ),
    _rule(
        "seq_length_mismatch",
        r"Please ensure sequence length configuration",
        r"assert cu_seqlens\[-1\]\[-1\] <= max_length",
    ),
    _rule(
        "missing_packed_data",
        r"MissingPackedData: ",
        r"packed_(?:train|val)_data_path could not be resolved",
    ),
    _rule(
        "unreadable_packed_data",
        r"Packed Parquet dataset is empty",
        r"Packed Parquet file .{0,300} is missing required columns",
        r"Dataset problem: input_ids and position_ids",
        _RAISED + r"ArrowInvalid: ",
    ),
    _rule(
        "hub_unreachable",
        r"[Cc]ouldn't connect to '?https?://",
        _RAISED + r"(?:LocalEntryNotFoundError|OfflineModeIsEnabled)\b",
    ),
    _rule(
        "bad_checkpoint",
        r"Global shape mismatch for loaded",
        r"global metadata read failed",
        r"is not a distributed checkpoint",
        r"PytorchStreamReader failed",
        r"Invalid magic number; corrupt file",
        r"SafetensorError: ",
        r"(?:size|shape) mismatch (?:for|between) ",
        r"Error\(s\) in loading state_dict",
        r"Missing key in checkpoint state_dict",
        r"does not appear to have a file named ",
        r"is not a valid model identifier",
        r"Cannot access gated repo",
        r"Finetuning requires loading from an available pretrained checkpoint",
        r"Unable to instantiate HuggingFace AutoTokenizer|Couldn't instantiate the backend tokenizer",
        r"Failed to load configuration from ",
        _RAISED + r"(?:Incomplete|UnpicklingError): ",
        _RAISED + r"EOFError: Ran out of input",
    ),
    _rule("checkpoint_error", r"\bCheckpoint(?:ing)?Exception: "),
    _rule("port_taken", r"\bEADDRINUSE\b", r"[Aa]ddress already in use"),
    _rule(
        "terminated",
        _RAISED + r"SystemExit(?:: \d+)?$",
        r"SignalException: Process \d+ got signal: 15",
    ),
    _rule("crashed", r"Signal (?:4|7|8|11) \(SIG\w+\) received by PID"),
    _rule("aborted", r"Signal 6 \(SIGABRT\) received by PID"),
    _rule("killed", r"Signal 9 \(SIGKILL\) received by PID"),
    _rule(
        "nccl_timeout",
        r"Watchdog caught collective operation timeout",
        r"gloo/transport.{0,80}Timed out waiting \d+ms",
        r"store->get\(.{0,80} got error: wait timeout",
        r"DistStoreError: [Tt]imed out after",
        r"RendezvousTimeoutError",
    ),
    _rule(
        "peer_lost",
        r"Connection (?:closed|reset) by (?:remote )?peer",
        r"\bnccl(?:Remote|System|Internal)Error\b",
        r"remote process exited or there was a network error",
        r"NCCL communicator was aborted",
        r"\bDist(?:Backend|Network|Store)Error: ",
        r"\bgloo/transport/",
    ),
)

_MARK = re.compile(rb"^\[rank\d+\]: ")

# From its first line to its exception's; the lines between are indented.
_TRACEBACK = re.compile(
    rb"^(?P<mark>(?:\[rank\d+\]: )?)Traceback \(most recent call last\):\n"
    rb"(?:(?P=mark) [^\n]*\n)+(?P=mark)(?P<error>[A-Za-z_][^\n]*)",
    re.MULTILINE,
)


def signs(log: LogTail) -> list[Sign]:
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
    told = signs(LogTail(None, 0, text.encode(errors="replace")))
    return told[0].name if told else "user_code"


def _first(
    log: LogTail, text: bytes, rule: tuple[str, re.Pattern[bytes]], tracebacks: list[tuple[int, int]]
) -> Sign | None:
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


def _sign(name: str, log: LogTail, place: tuple[int, int], decisive: int) -> Sign:
    """decisive: a byte, counted in the tail, of the line that says it."""
    begin, end = place
    first, last = _line_around(log.data, decisive, decisive)
    return Sign(name, log.rank, log.offset + begin, end - begin, _clean(log.data[first:last]))


def _line_around(text: bytes, begin: int, end: int) -> tuple[int, int]:
    following = text.find(b"\n", end)
    return text.rfind(b"\n", 0, begin) + 1, following if following >= 0 else len(text)


# Event lines, and the line in which Bridge says what exception it passes on.
_QUOTES = re.compile(rb"SFT_EVENT \{[^\n]*|ERROR:megatron\.bridge\.training\.pretrain:Pretrain failed[^\n]*")


def _without_quotes(text: bytes) -> bytes:
    """The text with what quotes other lines blanked out. Every byte keeps its place."""
    return _QUOTES.sub(lambda match: b" " * len(match[0]), text)


_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _clean(line: bytes) -> str:
    """A line that is fit to be stored and shown: no control characters, of bounded length."""
    text = _ESCAPE.sub("", line[: 8 * MAX_LINE_CHARACTERS].decode(errors="replace"))
    text = _CONTROL.sub("\ufffd", text.rstrip()).rstrip()
    return text if len(text) <= MAX_LINE_CHARACTERS else text[: MAX_LINE_CHARACTERS - 1] + "…"
