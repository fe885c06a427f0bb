"""Pickles that would run code are rejected, and pickles of checkpoints are accepted. Nothing is unpickled."""

import collections
import contextlib
import functools
import io
import operator
import os
import pickle
import pickletools
import types
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.torch_files import Calls, index
from trainer.checkpoint_safety import allowed, pickles
from trainer.checkpoint_safety.allowed import INDEX_CLASSES, OBJECT_CLASSES
from trainer.checkpoint_safety.pickles import MAX_STACK, Hostile, Unreadable, scan

CLASSES = INDEX_CLASSES | OBJECT_CLASSES
ORDERED = b"ccollections\nOrderedDict\n"
LONG_NAME = "x" * 5000


def text(value: str) -> bytes:
    """Return opcodes that put a text on the stack."""
    data = value.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def by_stack(module: str, name: str) -> bytes:
    """Return opcodes that put a global on the stack, as protocol 4 does."""
    return text(module) + text(name) + pickle.STACK_GLOBAL


def calls(function: bytes, protocol: int = 2) -> bytes:
    """Return a pickle that calls a function with the text `touch canary`."""
    return b"\x80" + bytes([protocol]) + function + text("touch canary") + b"\x85R."


class Class:
    """A class that pickles as itself."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call",
    [
        Calls(os.system, "touch canary"),
        Calls(eval, "1"),
        Calls(getattr, os, "system"),
        Calls(functools.partial, os.system, "touch canary"),
        Calls(operator.attrgetter("system"), os),
        Calls(operator.methodcaller("system", "touch canary"), os),
        Calls(pickle.loads, pickle.dumps(1)),
        Calls(types.SimpleNamespace, "os"),
        Calls(__import__, "os"),
    ],
    ids=lambda call: getattr(call.call[0], "__name__", type(call.call[0]).__name__),
)
def test_a_call_is_rejected_in_every_protocol(call: Calls, protocol: int) -> None:
    call.call = call.call[0], tuple("os" if value is os else value for value in call.call[1])
    for value in (call, {"a": [call]}, (1, {"b": call}), {call: 1}):
        with pytest.raises(Hostile):
            scan(pickle.dumps(value, protocol), CLASSES, storages=True)


EVASIONS: dict[str, bytes] = {
    "global": calls(b"cposix\nsystem\n"),
    "stack global": calls(by_stack("posix", "system"), 4),
    "without a protocol": b"cposix\nsystem\n(S'touch canary'\ntR.",
    "instance": b"(S'touch canary'\niposix\nsystem\n.",
    "object": b"(cposix\nsystem\nS'touch canary'\no.",
    "extension codes": b"\x80\x02\x82\x01.",
    "large extension codes": b"\x80\x02\x84\x01\0\0\0.",
    "dotted name": calls(by_stack("torch", "os.system"), 4),
    "dotted module": calls(b"ctorch.os\nsystem\n"),
    "through sys": calls(by_stack("collections", "_sys.modules"), 4),
    "nested loads": calls(b"ctorch.storage\n_load_from_bytes\n"),
    "torch.load": calls(b"ctorch\nload\n"),
    "torch.os": calls(b"ctorch\nos.system\n"),
    "numpy": calls(b"cnumpy.core.multiarray\nscalar\n"),
    "numpy's tests": calls(b"cnumpy.testing._private.utils\nrunstring\n"),
    "partial": calls(b"cfunctools\npartial\n"),
    "new object": b"\x80\x02csubprocess\nPopen\n" + text("touch canary") + b"\x85\x81.",
    "new object with keywords": b"\x80\x04" + by_stack("subprocess", "Popen") + text("x") + b"\x85}\x92.",
    "look-alike": calls("collections\nOrderedDict\n".replace("o", "\u043e").encode().join((b"c", b""))),
    "fullwidth": calls(by_stack("posix", "\uff53ystem"), 4),
    "space before": calls(b"c collections\nOrderedDict\n"),
    "space behind": calls(b"ccollections\nOrderedDict \n"),
    "carriage return": calls(b"ccollections\r\nOrderedDict\r\n"),
    "NUL": calls(b"ccollections\nOrderedDict\0\n"),
    "escape": calls(b"cposi\\x78\nsystem\n"),
    "escape of an allowed name": calls(b"ccollections\nOrdered\\x44ict\n"),
    "relative module": calls(b"c.collections\nOrderedDict\n"),
    "long name": calls(by_stack(LONG_NAME, "system"), 4),
    "empty name": calls(by_stack("collections", ""), 4),
    "name from a call": b"\x80\x04" + text("collections") + ORDERED + b")R\x93.",
    "name from bytes": b"\x80\x04" + text("collections") + b"C\x0bOrderedDict\x93.",
    "name from an old string": b"\x80\x04" + text("collections") + b"U\x0bOrderedDict\x93.",
    "name through the memo": b"\x80\x04" + text("posix") + b"q\x000" + b"h\x00" + text("system") + b"\x93.",
    "memo by a text": b"\x80\x04" + text("posix") + b"p0\n" + b"g0\n" + text("system") + b"\x93.",
    "memo without a value": b"\x80\x02h\x05.",
    "memo of nothing": b"\x80\x02q\x00.",
    "huge memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "growing memo": b"\x80\x02K\x01r\x00\x00\x10\x00.",
    "call of an instance": b"\x80\x02" + ORDERED + b")R)R.",
    "call of a text": b"\x80\x02" + text("posix") + b")R.",
    "attributes of a class": b"\x80\x02" + ORDERED + b"}" + text("__init__") + b"K\x01sb.",
    "attributes of a class from the memo": b"\x80\x02" + ORDERED + b"q\x00" + b")Rh\x00}b.",
    "slots of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + text("x") + b"K\x01s\x86b.",
    "items of a class": b"\x80\x02" + ORDERED + b"K\x01K\x02s.",
    "items of a class at once": b"\x80\x02" + ORDERED + b"(K\x01K\x02u.",
    "persistent id": b"\x80\x02K\x01Q.",
    "persistent id as text": b"\x80\x02Pposix\n.",
    "next buffer": b"\x80\x05\x97.",
    "huge bytes": b"\x80\x05\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",
    "huge text": b"\x80\x04X\xff\xff\xff\xffx.",
    "huge byte array": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",
    "huge integer": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "integer as text": b"L" + b"9" * 100_000 + b"L\n.",
    "two pickles": pickle.dumps(1, 2) + calls(b"cposix\nsystem\n"),
    "trailing data": pickle.dumps(1, 2) + b"x",
    "truncated": calls(b"cposix\nsystem\n")[:-3],
    "cut inside a name": b"\x80\x02cposix\nsys",
    "no stop": b"\x80\x02N",
    "empty": b"",
    "garbage": b"garbage",
    "unknown opcode": b"\x80\x02\xff.",
    "underflow": b"\x80\x02\x86.",
    "underflow below a mark": b"\x80\x02K\x01K\x02(\x86.",
    "no mark": b"\x80\x02t.",
    "bad text": b"\x80\x02X\x01\0\0\0\xff.",
    "lone surrogate": calls(b"\x8c\x03\xed\xa0\x80\x8c\x06system\x93", 4),
    "deep": b"\x80\x02" + b"(" * (MAX_STACK + 10) + b".",
    "wide": b"\x80\x02(" + b"N" * (MAX_STACK + 10) + b"t.",
}  # fmt: skip


@pytest.mark.parametrize("name", EVASIONS)
def test_an_evasion_is_rejected(name: str) -> None:
    with pytest.raises(Hostile):
        scan(EVASIONS[name], CLASSES)


@pytest.mark.parametrize("opcodes", [b"}", b"]", b"(t", b")\x85", ORDERED + b")R"])
def test_a_small_pickle_cannot_fill_the_memory(opcodes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of one byte take much more memory once they are loaded."""
    monkeypatch.setattr(pickles, "MAX_OBJECTS", 1000)
    many = b"\x80\x02](" + 999 * (opcodes + b"e(") + b"e."
    assert scan(many, CLASSES) <= {"collections.OrderedDict"}
    with pytest.raises(Hostile, match="too large"):
        scan(many[:-2] + opcodes + b"e.", CLASSES)


def test_the_message_names_the_class() -> None:
    for pickled in (EVASIONS["global"], EVASIONS["stack global"]):
        with pytest.raises(Hostile, match=r"'posix\.system', which is not in the list of allowed classes"):
            scan(pickled, CLASSES)
    with pytest.raises(Hostile) as found:
        scan(calls(by_stack("\u202e\x1b[2J", "system"), 4), CLASSES)
    assert str(found.value).isascii()
    assert str(found.value).isprintable()


@pytest.mark.parametrize("name", ["truncated", "empty", "garbage", "no stop"])
def test_damage_is_told_from_an_attack(name: str) -> None:
    damaged = pickle.dumps({"a": 1}, 2)[:-2] if name == "truncated" else EVASIONS[name]
    with pytest.raises(Unreadable):
        scan(damaged, CLASSES)


def test_an_index_is_accepted() -> None:
    names = scan(index({"a": ("__0_0.distcp", 0, 1)}, {"b": ("__0_0.distcp", 1, 1)}), INDEX_CLASSES)
    assert "torch.distributed.checkpoint.metadata.Metadata" in names
    assert names <= INDEX_CLASSES


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_accepted(protocol: int) -> None:
    shared = collections.OrderedDict({"a": [1, 2.5, None, True, -7, 2**31, b"x" * 300, "y" * 300]})
    value = {
        "shared": [shared, shared],
        "tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "many": [*range(3000)],
    }
    # Protocol 2 writes bytes as a call of a codec.
    assert scan(pickle.dumps(value, protocol), CLASSES) - {"_codecs.encode"} == {"collections.OrderedDict"}
    if protocol > 3:
        assert scan(pickle.dumps({frozenset({1}), 2}, protocol), CLASSES) == set()


def test_old_names_of_modules_lead_to_no_allowed_class() -> None:
    """Unpicklers translate names of Python 2, after a class has been checked."""
    for name in allowed.CLASSES:
        module, _, attribute = name.rpartition(".")
        assert (module, attribute) not in NAME_MAPPING
        assert module not in IMPORT_MAPPING


# -- fuzz ------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.binary(min_size=1)
    | st.text("ab"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
SETTINGS = settings(deadline=None, database=None, max_examples=500)
OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@SETTINGS
@given(st.binary(max_size=200) | st.lists(OPCODES | st.binary(max_size=3)).map(b"".join))
def test_any_bytes_are_accepted_or_rejected(data: bytes) -> None:
    for pickled in (data, b"\x80\x04" + data, ORDERED + data, text("posix") + text("system") + data + b"."):
        try:
            scan(pickled, CLASSES, storages=True)
        except Hostile:
            continue


@SETTINGS
@given(PLAIN, st.integers(2, 5))
def test_any_plain_data_are_accepted(value: Any, protocol: int) -> None:
    assert scan(pickle.dumps(value, protocol), OBJECT_CLASSES) <= {"_codecs.encode"}


class Recorder(pickle.Unpickler):
    """Records the classes that an unpickler asks for. Builds none of them."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.asked: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.asked.add(f"{module}.{name}")
        return collections.OrderedDict


PIECES = (
    ORDERED, b"cposix\nsystem\n", by_stack("posix", "system"), text("posix"), text("system"), b"\x93", b")",
    b"R", b"q\x00", b"h\x00", b"\x94",
    b"(", b"t", b"}", b"N", b"b", b"\x81", b"0", b"1", b"2", b"\x85", b"\x86",
)  # fmt: skip


@SETTINGS
@given(st.lists(st.sampled_from(PIECES)))
def test_the_scan_knows_every_class_that_an_unpickler_asks_for(opcodes: list[bytes]) -> None:
    """What the scan accepts, Python's unpickler loads with allowed classes only."""
    data = b"\x80\x04" + b"".join(opcodes) + b"."
    try:
        names = scan(data, CLASSES)
    except Hostile:
        return
    unpickler = Recorder(io.BytesIO(data))
    with contextlib.suppress(Exception):
        unpickler.load()
    assert unpickler.asked <= names
