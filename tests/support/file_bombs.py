"""Files that take much memory or time from whoever reads them, and files with unexpected values."""

import json
import pickle
import struct
from pathlib import Path

from tests.support.checkpoint_files import save
from tests.support.torch_files import index

MEMO = pickle.LONG_BINPUT + struct.pack("<I", 0x1FFFFFFF)


def memo_bomb() -> bytes:
    """A pickle of 9 bytes, whose memo has half a billion places: 4.3 GB."""
    return pickle.PROTO + b"\x02" + pickle.NONE + MEMO + pickle.STOP


def hash_bomb(levels: int = 60) -> bytes:
    """A pickle of a dictionary whose key is a pair of a pair of ...: its hash takes 2**levels steps."""
    steps = b"".join(
        pickle.BINGET + bytes([level]) + pickle.BINGET + bytes([level]) + pickle.TUPLE2
        + pickle.BINPUT + bytes([level + 1]) + pickle.POP
        for level in range(levels)
    )  # fmt: skip
    begin = pickle.PROTO + b"\x02" + pickle.EMPTY_TUPLE + pickle.BINPUT + b"\x00" + pickle.POP
    key = pickle.EMPTY_DICT + pickle.BINGET + bytes([levels]) + pickle.NONE + pickle.SETITEM
    return begin + steps + key + pickle.STOP


def slow_bomb() -> bytes:
    """A pickle of a list of 45 million times None, which takes long to inspect."""
    items = pickle.MARK + pickle.NONE * 90_000 + pickle.APPENDS
    return pickle.PROTO + b"\x02" + pickle.EMPTY_LIST + items * 500 + pickle.STOP


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def empty_lists(megabytes: int) -> str:
    """A JSON list of empty lists: 30 times its size in memory."""
    return "[" + ",".join(["[]"] * (megabytes * 1_000_000 // 3)) + "]"


def save_with_index(directory: Path, index: bytes) -> Path:
    """A checkpoint whose index has this content."""
    (save(directory, 7) / ".metadata").write_bytes(index)
    return directory


def index_of(relative_path: object, offset: object = 0, length: object = 10) -> bytes:
    return index({"weight": (relative_path, offset, length)})  # type: ignore[dict-item]


ODD_INDEXES = {
    "a number": index_of(5),
    "bytes": index_of(b"__0_0.distcp"),
    "nothing": index_of(None),
    "a NUL": index_of("__0_0\0.distcp"),
    "a lone surrogate": index_of("__0_0.distcq").replace(
        b"\x8c\x0c__0_0.distcq", b"\x8c\x0f__0_0.distcq\xed\xa0\x80"
    ),
    "an absolute path": index_of("/etc/passwd"),
    "a parent": index_of(".."),
    "a long name": index_of("x" * 5000),
    "a list": index_of(["__0_0.distcp"]),
    "an offset of text": index_of("__0_0.distcp", "0"),
    "a negative offset": index_of("__0_0.distcp", -5),
    "an endless length": index_of("__0_0.distcp", 0, float("inf")),
    "a huge length": index_of("__0_0.distcp", 0, 10**400),
    "no pieces": index({}),
    "a list for the index": pickle.dumps(["a", "list"]),
    "pieces that are text": index({}, storage_data="text"),
    "no pickle": b"garbage",
    "nothing at all": b"",
}  # fmt: skip

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "n_routed_experts")
ODD_VALUES = (
    '"4096"', "[[1]]", '{"a": 1}', "NaN", "1e400", "-1", "true", "1.5", "1" + "0" * 1000, '["8"]', str(2**40),
)  # fmt: skip
ODD_CONFIGS = {
    **{f"{name} is {value[:12]}": f'{{"{name}": {value}}}' for name in SIZES[:2] for value in ODD_VALUES},
    "every size": json.dumps({name: [[[-1]]] for name in SIZES}),
    "architectures": '{"architectures": {"a": 1}}',
    "a pattern of numbers": '{"hybrid_override_pattern": 7}',
    "a long pattern": json.dumps({"hybrid_override_pattern": "M" * 100_000}),
    "a number of 5000 digits": '{"hidden_size": ' + "9" * 5000 + "}",
    "no object": "[1, 2]",
    "no JSON": "{",
    "nothing": "",
    "not UTF-8": b'{"hidden_size": "\xff"}'.decode("latin-1"),
    "nested": nested(200_000),
    "empty lists": empty_lists(3),
    "too long": '{"a": "' + "x" * 5_000_000 + '"}',
}
