"""Fuzz the readers of foreign files: whatever a file holds, its inspection ends with foreseen findings.

SFT_FUZZ_EXAMPLES sets the number of examples of each test, 30 by default.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.file_bombs import save_with_index
from tests.support.inputs import make_inputs
from tests.support.torch_files import index
from trainer.checkpoints import missing_export_files
from trainer.config.effective import HF_NAMES
from trainer.config.presets import load_preset
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware
from worker.runs.events import read_ending, read_event
from worker.sandbox import inspections

fuzz = settings(
    max_examples=int(os.environ.get("SFT_FUZZ_EXAMPLES", "30")),
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def values_with(keys: list[str]) -> st.SearchStrategy[Any]:
    """JSON values, some of whose objects have keys that the readers look for."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    odd = st.sampled_from([10**1000, -(2**63), 1e308, "7", "\ud800", "\0"])
    names = st.sampled_from(keys) | st.text(max_size=3)
    return st.recursive(
        leaves | odd,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
        max_leaves=20,
    )


def documents(keys: list[str]) -> st.SearchStrategy[bytes]:
    """JSON texts with objects at their top, and texts that are none."""
    objects = st.dictionaries(st.sampled_from(keys), values_with(keys), max_size=8)
    whole = (objects | values_with(keys)).map(lambda value: json.dumps(value).encode())
    return whole | st.tuples(whole, st.integers(0, 60)).map(lambda pair: pair[0][: -pair[1] or None])


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A content with some bytes replaced, inserted, or cut off. The end has most of the structure."""
    places = st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 200), len(content) - 1)
    edits = st.lists(st.tuples(places, st.binary(max_size=5), st.integers(0, 5)), min_size=1, max_size=6)

    def apply(chosen: list[tuple[int, bytes, int]]) -> bytes:
        changed = content
        for place, piece, length in chosen:
            changed = changed[:place] + piece + changed[place + length :]
        return changed

    return edits.map(apply)


@pytest.fixture
def places(environment: pytest.MonkeyPatch, data_dir: Path) -> Path:
    """Return a directory with a model, packed data and a checkpoint."""
    make_inputs(data_dir)
    save_with_index(data_dir / "inputs" / "save", index({}))
    return data_dir / "inputs"


def assess(places: Path) -> None:
    """Assess a config that names all files. Fails if an exception was not foreseen."""
    config = TrainingConfig.model_validate({
        **load_preset("cpu-tiny").config,
        "hf_model_path": str(places / "model"),
        "checkpoint_megatron": str(places / "save"),
        "dataset": {"nano3_packed_sft_dir": str(places / "packed")},
    })  # fmt: skip
    hardware = Hardware(nodes=1, gpus_per_node=1, gpu_memory_gib=80)
    found = inspections.assess(config, hardware, [places], files=True)
    unforeseen = [one.message for one in found.findings if one.code == "unreadable_file"]
    assert unforeseen == []


VALID_INDEX = index({name: (f"{name}.distcp", 40, 60) for name in ("a", "b", "c")})


@fuzz
@given(content=damaged(VALID_INDEX) | st.binary(max_size=40))
def test_an_index(places: Path, content: bytes) -> None:
    (places / "save" / "iter_0000007" / ".metadata").write_bytes(content)
    assess(places)


CONFIG_KEYS = [
    *HF_NAMES.values(),
    "architectures", "layers_block_type", "text_config", "hidden_act", "tie_word_embeddings",
]  # fmt: skip


@fuzz
@given(content=documents(CONFIG_KEYS))
def test_a_config_of_a_model(places: Path, content: bytes) -> None:
    (places / "model" / "config.json").write_bytes(content)
    assess(places)


TOKENIZER_KEYS = ["model", "vocab", "added_tokens", "content", "id"]


@fuzz
@given(content=documents(TOKENIZER_KEYS), vocabulary=values_with(TOKENIZER_KEYS), inside=st.booleans())
def test_a_tokenizer(places: Path, content: bytes, vocabulary: Any, inside: bool) -> None:
    if inside:
        content = json.dumps({"model": {"vocab": vocabulary}, "added_tokens": vocabulary}).encode()
    (places / "model" / "tokenizer.json").write_bytes(content)
    assess(places)


PACKING_KEYS = ["pack_size", "tokenizer", "tokenizer_sha256", "vocab_size"]
PACKING_FILES = ["metadata.json", "splits/train/a_metadata.jsonl"]


@fuzz
@given(content=documents(PACKING_KEYS), name=st.sampled_from(PACKING_FILES))
def test_metadata_of_packing(places: Path, content: bytes, name: str) -> None:
    (places / "packed" / name).write_bytes(content)
    assess(places)


@fuzz
@given(data=st.data())
def test_a_shard(places: Path, data: st.DataObject) -> None:
    valid = places / "packed/splits/valid/part-00000.parquet"
    content = data.draw(damaged(valid.read_bytes()))
    (places / "packed/splits/train/part-00000.parquet").write_bytes(content)
    assess(places)


EVENT_KEYS = ["event", "at", "step", "loss", "files", "path", "bytes", "iteration", "message", "version"]


@fuzz
@given(content=documents(EVENT_KEYS) | damaged(b'{"event": "step", "at": "2026-01-02T03:04:05Z", "step": 1}'))
def test_what_a_run_writes(content: bytes) -> None:
    for read in (read_event, read_ending):
        with suppress(ValueError):
            read(content)
    with suppress(ValueError):
        missing_export_files(["config.json"], content)
    with suppress(ValueError):
        missing_export_files(["config.json"], b'{"weight_map": ' + content + b"}")
