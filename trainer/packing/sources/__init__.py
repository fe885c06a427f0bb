"""Read the records of files, directories, patterns, blends and datasets of the Hugging Face hub. No torch."""

from trainer.packing.sources.find import find
from trainer.packing.sources.read import records
from trainer.packing.sources.source import BadSource, RawRecord, Source, SourceItem, UnreadableRecord

__all__ = ["BadSource", "RawRecord", "Source", "SourceItem", "UnreadableRecord", "find", "records"]
