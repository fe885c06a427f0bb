"""Packed data on disk: its location, its contents and its faults. No torch."""

from trainer.dataset.footers import Limits
from trainer.dataset.inspection import Inspection, inspect
from trainer.dataset.layout import MissingPackedData, Shards, find_shards
from trainer.dataset.packing_record import BadPacking, Packing, read_packing

__all__ = [
    "BadPacking",
    "Inspection",
    "Limits",
    "MissingPackedData",
    "Packing",
    "Shards",
    "find_shards",
    "inspect",
    "read_packing",
]
