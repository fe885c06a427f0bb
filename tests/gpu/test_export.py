"""A model trained on a GPU gives the trained answers after export: a Llama, an adapter on it, a hybrid."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpu_runs import Config, GpuHardware, config, finished, note
from tests.support.teaching import MOVED, TAUGHT, answers
from tests.support.trainer_runs import Run, train, trainer_python

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

STEPS = 120


def _packed(directory: Path, model: Path, lessons: dict[str, str]) -> Path:
    directory.mkdir()
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in lessons.items()
    ]
    records = directory / "records.jsonl"
    records.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    what = ("--input", records, "--tokenizer", model, "--output", directory / "packed")
    how = ("--pack-size", "128", "--valid-share", "0", "--test-share", "0")
    trainer_python("-m", "trainer.pack", *map(str, (*what, *how)), check=True)
    return directory / "packed"


def _taught(directory: Path, model: Path, lessons: dict[str, str], **changes: Any) -> Run:
    """Train a model on only a few records, many times."""
    packed = _packed(directory, model, lessons)
    values = config(
        model.parent.parent, directory, model.name, dataset={"nano3_packed_sft_dir": str(packed)},
        seq_length=128, train={"train_iters": STEPS, "global_batch_size": 1},
        checkpoint={"save_interval": STEPS}, **changes,
    )  # fmt: skip
    values |= {"hf_model_path": str(model), "validation": {"eval_iters": 0}}
    return finished(train(directory / "run", values))


def _exported(directory: Path, trained: Run, model: Path, **changes: Any) -> Path:
    checkpoint = trained.of_kind("checkpoint")[-1]["path"]
    values: Config = {
        "hf_model_path": str(model), "export": {"checkpoint": checkpoint},
        "checkpoint": {"save": str(directory / "checkpoints")}, **changes,
    }  # fmt: skip
    run = finished(train(directory, values))
    return Path(run.of_kind("checkpoint")[0]["path"])


def test_an_exported_llama_and_a_merged_adapter_give_the_trained_answers(
    inputs: Path, hardware: GpuHardware, tmp_path: Path
) -> None:
    model = inputs / "models" / "small"
    trained = _taught(tmp_path / "full", model, TAUGHT, optimizer={"lr": 5e-4, "min_lr": 5e-5})
    exported = _exported(tmp_path / "export", trained, model)
    given = answers(exported)
    assert given["answers"] == TAUGHT
    lora = {"peft": "lora", "lora": {"dim": 16, "alpha": 32}, "optimizer": {"lr": 5e-3, "min_lr": 1e-3}}
    adapter = _taught(tmp_path / "lora", exported, MOVED, **lora)
    merged = _exported(tmp_path / "merged", adapter, exported, peft="lora")
    assert answers(merged)["answers"] == MOVED
    note(
        "export-llama", hardware, trained, answers=given, answers_of_the_merged_adapter=MOVED,
        losses={step: loss for step, loss in trained.losses().items() if step % 20 == 0},
    )  # fmt: skip


def test_an_exported_hybrid_gives_the_trained_answers(
    inputs: Path, hardware: GpuHardware, tmp_path: Path
) -> None:
    model = inputs / "models" / "hybrid"
    trained = _taught(tmp_path / "full", model, TAUGHT, optimizer={"lr": 1e-3, "min_lr": 1e-4})
    given = answers(_exported(tmp_path / "export", trained, model))
    assert given["answers"] == TAUGHT
    note(
        "export-hybrid", hardware, trained, answers=given,
        losses={step: loss for step, loss in trained.losses().items() if step % 20 == 0},
    )  # fmt: skip
