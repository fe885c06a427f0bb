"""Allowed names in uses that no checkpoint needs: numpy would read any memory, tensors would hide pickles."""

import io
import os
import pickle

import pytest

from tests.support.opcodes import (
    BUILD,
    FALSE,
    HIDDEN,
    NONE,
    NUMBERS,
    ORDERED,
    TRUE,
    array,
    call,
    empty,
    encoded,
    items,
    name,
    number,
    storage,
    tensor,
    text,
    whole,
)
from tests.support.torch_files import Calls, archive, legacy, loaded_from_bytes
from trainer.checkpoint_safety.allowed import OBJECT_CLASSES
from trainer.checkpoint_safety.archives import Span, scan_archive
from trainer.checkpoint_safety.extra_state import scan_extra_state
from trainer.checkpoint_safety.pickles import Hostile, scan

U4 = call("numpy.dtype", text("u4"), FALSE, TRUE)
LOAD = "torch.storage._load_from_bytes"
DICT = b"}" + text("a") + number(1) + b"s"

USUAL = {
    "array": array(),
    "array of bytes": array("u1", None, length=8),
    "two arrays of one type": b"(" + array() + b"q\x00h\x00" + empty() + items(
        number(1), items(number(2)), U4 + b"q\x01" + NUMBERS + BUILD,
        FALSE, encoded("A" * 8)) + BUILD + empty() + items(
        number(1), items(number(2)), b"h\x01", FALSE, encoded("A" * 8)) + BUILD + b"t",
    "texts of the memo": b"(" + text("u4") + b"q\x00" + text("latin1") + b"q\x01" + call(
        "numpy.dtype", b"h\x00", FALSE, TRUE) + call("_codecs.encode", text("x"), b"h\x01") + b"t",
    "part of a tensor": tensor(storage(8), 4, 2),
    "storage of the memo": text("storage") + b"q\x00" + text("cpu") + b"q\x01" + b"\x86" + items(
        b"h\x00", name("torch.FloatStorage"), text("0"), b"h\x01", number(3)) + b"Q\x86",
    "legacy storage": storage(8, NONE),
    "untyped storage": storage(8, kind="torch.storage.UntypedStorage"),
    "attributes of a state dict": ORDERED + DICT + BUILD,
    "items of a state dict": ORDERED + text("a") + number(1) + b"s",
}  # fmt: skip


@pytest.mark.parametrize("case", USUAL)
def test_what_checkpoints_have_is_accepted(case: str) -> None:
    assert scan(whole(USUAL[case]), OBJECT_CLASSES, storages=True) <= OBJECT_CLASSES


UNUSUAL = {
    "objects": array("O", None),
    "objects by another name": array("|O", None),
    "bytes of any kind": array("V8", None),
    "texts": array("U2", None),
    "objects in a field": array("V8", HIDDEN, length=1),
    "objects in a field of numbers": array("u8", HIDDEN, length=1),
    "list of fields": array("u4,O", None),
    "flags of objects": array("u8", items(
        number(3), text("|"), NONE, NONE, NONE, number(8), number(8), number(63))),
    "type of a type": array("u8", items(
        number(3), text("|"), items(U4, items(number(2))), NONE, NONE, number(-1), number(-1), number(0))),
    "metadata": array("u4", items(
        number(4), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0), b"}")),
    "kind of a kind": call("numpy.dtype", b"]" + b"(" + text("f") + text("O") + b"e", FALSE, TRUE),
    "kind from the memo": text("O") + b"q\x00" + call("numpy.dtype", b"h\x00", FALSE, TRUE) + b"\x86",
    "arguments from the memo": items(text("u4"), FALSE, TRUE) + b"q\x00" + name(
        "numpy.dtype") + b"h\x00R\x86",
    "arguments in a list": name("numpy.dtype") + b"]" + text("O") + b"a" + b"R",
    "kind that all arrays share": call("numpy.dtype", text("u4"), FALSE, FALSE),
    "new kind": name("numpy.dtype") + items(text("O")) + b"\x81",
    "new array": name("numpy.ndarray") + items(items(number(1)), text("O"), encoded("A" * 8)) + b"\x81",
    "state from the memo": NUMBERS + b"q\x00" + U4 + b"h\x00b\x86",
    "array of any memory": empty(length=100),
    "array of another class": empty(kind=name("torch.Size")),
    "state without a type": empty() + items(
        number(1), items(number(1)), text("O"), FALSE, encoded("A" * 8)) + BUILD,
    "state of an unknown type": empty() + items(
        number(1), items(number(1)), name("torch.uint8"), FALSE, NONE) + BUILD,
    "many dimensions": empty() + items(
        number(1), items(*65 * [number(1)]), U4, FALSE, encoded("AAAA")) + BUILD,
    "items of an array": array() + number(0) + number(1) + b"s",
    "codec": encoded("x", "rot13"),
    "codec from the memo": text("zlib") + b"q\x00" + call("_codecs.encode", text("x"), b"h\x00") + b"\x86",
    "memory of a storage": call("torch.ByteStorage", number(1 << 30)),
    "memory of an untyped storage": call("torch.storage.UntypedStorage", number(1 << 30)),
    "state of a tensor": tensor(storage(8), 0, 8) + items(
        storage(8), number(4), items(number(4)), items(number(1))) + BUILD,
    "attributes of a tensor": tensor(storage(8), 0, 8) + DICT + BUILD,
    "items of a tensor": tensor(storage(8), 0, 8) + number(0) + number(65) + b"s",
    "items of a tensor at once": tensor(storage(8), 0, 8) + b"(" + number(0) + number(65) + b"u",
    "slots": ORDERED + items(NONE, DICT) + BUILD,
    "class of an object": ORDERED + items(NONE, b"}" + text("__class__") + name("torch.Size") + b"s") + BUILD,
    "slots from the memo": items(NONE, DICT) + b"q\x00" + ORDERED + b"h\x00b\x86",
    "attributes of bytes": encoded("x") + DICT + BUILD,
    "persistent source": items(text("module"), name("torch.Size"), text("a.py"), text("x")) + b"Q",
    "persistent class": storage(8, kind="torch.Size"),
    "persistent text": text("0") + b"Q",
    "persistent view": storage(8, items(text("1"), number(4), number(4))),
    "persistent number": items(
        text("storage"), name("torch.ByteStorage"), text("0"), text("cpu"), ORDERED) + b"Q",
    "persistent memo": items(text("storage")) + b"q\x00Q",
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSUAL)
def test_another_use_of_an_allowed_name_is_rejected(case: str) -> None:
    with pytest.raises(Hostile, match=r"that no checkpoint needs|does not write|is no list|did not make"):
        scan(whole(UNUSUAL[case]), OBJECT_CLASSES, storages=True)


# -- the extra state of Transformer Engine ---------------------------------------------------------

GOOD, EVIL = pickle.dumps({}), pickle.dumps(Calls(os.system, "false"), 2)


def extra_state(pickled: bytes, content: bytes = GOOD) -> None:
    data = archive(pickled, {"0": content})
    scan_archive(Span(io.BytesIO(data), 0, len(data)), OBJECT_CLASSES, extra_state=True)


def test_a_complete_tensor_is_accepted() -> None:
    extra_state(whole(b"]", tensor(storage(len(GOOD)), 0, len(GOOD)), b"a"))


PARTS = {
    "offset": tensor(storage(20), 10, 10),
    "beginning": tensor(storage(20), 0, 10),
    "every second byte": tensor(storage(20), 0, 10, 2),
    "one byte often": tensor(storage(20), 0, 20, 0),
    "negative bytes": tensor(storage(20), 0, 20, 1, b"}" + text("neg") + TRUE + b"s"),
    "other function": call(
        "torch._utils._rebuild_tensor_v3", storage(20), number(0), items(number(20)), items(number(1)), FALSE,
        ORDERED, name("torch.uint8")),
    "parameter": call("torch._utils._rebuild_parameter", tensor(storage(20), 0, 20), FALSE, ORDERED),
    "new tensor": name("torch._utils._rebuild_tensor_v2") + items(storage(20), number(4)) + b"\x81",
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_a_tensor_is_rejected(case: str) -> None:
    """It is unpickled: what lies around it would make another pickle of it."""
    with pytest.raises(Hostile, match="a part of what is stored"):
        extra_state(whole(PARTS[case]))


NESTED = {
    "twice": loaded_from_bytes(b"")[2:-1].replace(b"B\0\0\0\0", loaded_from_bytes(legacy(EVIL))[2:-1]),
    "bytes of the memo": b"C" + bytes([len(EVIL)]) + EVIL + b"q\x00" + name(LOAD) + b"h\x00\x85R\x86",
    "arguments of the memo": b"C\x01x\x85q\x00" + name(LOAD) + b"h\x00R\x86",
    "tensor": call(LOAD, tensor(ORDERED, 0, 1)),
    "text": call(LOAD, text("x")),
    "new": name(LOAD) + b"C\x01x\x85\x81",
    "other function": call("megatron.core.safe_globals.safe_load_from_bytes", call(LOAD, b"C\x01x")),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED)
def test_only_bytes_that_are_inspected_are_loaded(case: str) -> None:
    with pytest.raises(Hostile):
        scan_extra_state(b"\x80\x04" + NESTED[case] + b".")


def test_bytes_that_nothing_loads_are_data() -> None:
    scan_extra_state(b"\x80\x04(" + loaded_from_bytes(legacy(GOOD))[2:-1] + b"C\x03abct.")
