"""Inspect the extra state of Transformer Engine: a pickle, in which each tensor is a file of torch.save."""

from trainer.checkpoint_safety.allowed import EXTRA_STATE_CLASSES, OBJECT_CLASSES
from trainer.checkpoint_safety.pickles import Unreadable, scan, scan_first

# torch.save in its format before zip files: a magic number, a version, facts about the system, the object,
# and the keys of its storages, each a pickle; then the bytes of the storages.
_PICKLES = 5


def scan_extra_state(data: bytes) -> None:
    """Check an extra state. Raises Hostile."""
    loaded: list[bytes] = []
    scan(data, EXTRA_STATE_CLASSES, loaded=loaded)
    for tensor in loaded:
        _scan_storage(tensor)


def _scan_storage(data: bytes) -> None:
    if data[:1] != b"\x80":
        raise Unreadable("has bytes in the extra state that are not a tensor of torch")
    for _ in range(_PICKLES):
        _, end = scan_first(data, OBJECT_CLASSES, storages=True)
        data = data[end:]
