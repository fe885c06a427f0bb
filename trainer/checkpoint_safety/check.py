"""Check all files of a checkpoint before anything loads them.

Nothing in the directory is executed, imported or unpickled. A file may be replaced after the check: so the
trainer checks right before it opens the directory, and trainer/bridge/checkpoint_guard.py applies the same
lists while it loads.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainer import bounded_json, path_roots
from trainer.checkpoint_safety.allowed import INDEX_CLASSES, OBJECT_CLASSES
from trainer.checkpoint_safety.archives import Span, scan_archive
from trainer.checkpoint_safety.hugging_face import MAX_JSON_BYTES, MAX_TEMPLATE_BYTES, NAMES_CODE, scan_json
from trainer.checkpoint_safety.index import Piece, read_pieces
from trainer.checkpoint_safety.pickles import MAX_PICKLE_BYTES, Hostile, Unreadable, scan
from trainer.checkpoint_safety.run_config import MAX_RUN_CONFIG_BYTES, scan_run_config
from trainer.quoting import shown
from trainer.regular_files import NotRegular, open_regular

MAX_THREATS = 20
MAX_FILES = 100_000
MAX_DEPTH = 8

# Files of torch.save by their suffix, whatever would load them.
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
# Files whose loaders unpickle nothing. Objects inside of .distcp files are found by the index.
INERT = (".safetensors", ".distcp")
EXTRA_STATE = "_extra_state"


@dataclass(frozen=True)
class Threat:
    """A file of a checkpoint that must not be loaded."""

    file: str
    """Relative to the directory."""
    reason: str
    is_damage: bool = False
    """Whether the file is only damaged."""


def threats(directory: Path) -> list[Threat]:
    """Return the files of a Megatron checkpoint or a Hugging Face model that must not be loaded, at most 20.

    A single file is checked, too. Raises OSError if a directory cannot be read.
    """
    root = Path(os.path.realpath(directory))
    files: Iterable[Path] = _files(root)
    if root.is_file():
        root, files = root.parent, [root]
    found: list[Threat] = []
    for number, path in enumerate(files):
        name = str(path.relative_to(root))
        try:
            if number >= MAX_FILES:
                raise Hostile(f"is one of more than {MAX_FILES} files")
            _check_link(root, path)
            if not (path.is_symlink() and path.is_dir()):  # what is in it is checked where it lies
                _check_file(path)
        except Hostile as hostile:
            found.append(Threat(shown(name), str(hostile), isinstance(hostile, Unreadable)))
        except OSError as error:
            found.append(Threat(shown(name), f"cannot be read: {error.strerror}", is_damage=True))
        if number >= MAX_FILES or len(found) == MAX_THREATS:
            break
    return found


def _files(root: Path) -> Iterator[Path]:
    """Yield all entries but directories, sorted; and directories that are links or too deep."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            path = Path(entry.path)
            is_deep = len(path.relative_to(root).parts) > MAX_DEPTH
            if entry.is_dir(follow_symlinks=False) and not is_deep:
                waiting.append(path)
            else:
                yield path


def _check_link(root: Path, path: Path) -> None:
    """Reject links that lead out of the checkpoint, but for files in the roots or in the cache of the hub."""
    real = Path(os.path.realpath(path))
    is_cached = root.parent.name == "snapshots" and real.parent == root.parent.parent / "blobs"
    is_shared = real.is_file() and path_roots.contain(real)
    if not (real.is_relative_to(root) or is_cached or is_shared):
        raise Hostile("is a link that leads out of the checkpoint")


def _check_file(path: Path) -> None:
    """Check one file by its name, else by how it begins. Raises Hostile, OSError."""
    with _opened(path) as file:
        match path.name:
            case name if name.endswith(".metadata"):
                _check_index(path.parent, _read(file, MAX_PICKLE_BYTES))
            case "run_config.yaml":
                scan_run_config(_read(file, MAX_RUN_CONFIG_BYTES))
            case "metadata.json" if (path.parent / ".metadata").exists():
                _check_backend(_read(file, 1 << 16))
            case name if name in NAMES_CODE:
                scan_json(_read(file, MAX_JSON_BYTES))
            case name if name.endswith(".jinja") or name == "chat_template.json":
                _read(file, MAX_TEMPLATE_BYTES)
            case name if name.endswith(INERT):
                pass
            case _:
                _check_by_content(path.name, file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        descriptor = open_regular(path)
    except NotRegular as error:
        raise Hostile("is not a regular file") from error
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _read(file: IO[bytes], limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise Unreadable(f"has more than {limit} bytes, which is too large to be inspected")
    return data


def _check_by_content(name: str, file: IO[bytes]) -> None:
    """Check a file of torch.save, and any other file that begins as one or as a pickle."""
    begin = file.read(4)
    file.seek(0)
    if name.endswith(TORCH) or begin == b"PK\x03\x04":
        scan_archive(Span(file, 0, os.fstat(file.fileno()).st_size), OBJECT_CLASSES)
    elif begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        scan(_read(file, MAX_PICKLE_BYTES), INDEX_CLASSES | OBJECT_CLASSES)


# -- distributed checkpoints -----------------------------------------------------------------------


def _check_backend(data: bytes) -> None:
    """Reject formats other than torch's: the others have readers of their own."""
    try:
        backend = bounded_json.parse(data.decode()).get("sharded_backend")
    except (ValueError, AttributeError) as error:
        raise Unreadable(f"is not a JSON object: {str(error)[:100]}") from error
    if backend != "torch_dist":
        raise Hostile(f"has the sharded_backend {shown(backend)}; only torch_dist can be inspected")


def _check_index(directory: Path, data: bytes) -> None:
    """Check the index and the objects that it refers to. torch reads tensors without building classes."""
    files: dict[str, list[Piece]] = {}
    scan(data, INDEX_CLASSES)
    for piece in read_pieces(data):
        if not piece.is_tensor or EXTRA_STATE in piece.key:
            files.setdefault(piece.file, []).append(piece)
    for name, pieces in files.items():
        _check_objects(directory / name, pieces)


def _check_objects(path: Path, pieces: list[Piece]) -> None:
    try:
        with _opened(path) as file:
            for piece in pieces:
                _check_object(piece, file)
    except FileNotFoundError as error:
        raise Unreadable(f"names the file {shown(path.name)}, which is missing") from error


def _check_object(piece: Piece, file: IO[bytes]) -> None:
    try:
        span = Span(file, piece.offset, piece.length)
        scan_archive(span, OBJECT_CLASSES, extra_state=EXTRA_STATE in piece.key)
    except Hostile as hostile:
        message = f"has the object {shown(piece.key)} in {shown(piece.file)}, which {hostile}"
        raise type(hostile)(message) from hostile
