"""An exported model gives the answers that it was trained on: training, export and inference on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.teaching import MOVED, TAUGHT, answers
from tests.support.trainer_runs import PROJECT, Run, place, trainer_python

pytestmark = pytest.mark.training

Config = dict[str, Any]


def teach(directory: Path, model: Path, lessons: dict[str, str], **config: Any) -> Path:
    """Overfit a model on a few records, and return the checkpoint."""
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in lessons.items()
    ]
    directory.mkdir()
    records = directory / "records.jsonl"
    records.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    packing = [
        "--input", records, "--tokenizer", model, "--output", directory / "packed",
        "--pack-size", "128", "--valid-share", "0", "--test-share", "0",
    ]  # fmt: skip
    trainer_python("-m", "trainer.pack", *map(str, packing), check=True)
    preset = yaml.safe_load((PROJECT / "trainer/config/configs/cpu-tiny.yaml").read_text())["config"]
    dataset = {"nano3_packed_sft_dir": str(directory / "packed")}
    steps = {"train_iters": 40, "global_batch_size": 1, "micro_batch_size": 1}
    preset |= {"hf_model_path": str(model), "dataset": dataset, "seq_length": 128, "train": steps}
    preset |= {"validation": {"eval_iters": 0}, "checkpoint": {"save": str(directory / "checkpoints")}}
    run = alone(directory / "run", {**preset, **config})
    assert run.end["event"] == "finished", run.log()
    return Path(run.of_kind("checkpoint")[-1]["path"])


def export(directory: Path, checkpoint: Path, model: Path, **config: Any) -> Run:
    wanted = {"device": "cpu", "hf_model_path": str(model), "export": {"checkpoint": str(checkpoint)}}
    return alone(directory, {**wanted, "checkpoint": {"save": str(directory / "checkpoints")}, **config})


def alone(directory: Path, config: Config) -> Run:
    """Run to the end without torchrun, which saves a process."""
    run = place(directory, config)
    done = trainer_python("-m", "trainer", str(directory / "config.yaml"))
    (directory / "output.log").write_text(done.stdout + done.stderr)
    return run


def exported(run: Run) -> Path:
    assert run.end["event"] == "finished", run.log()
    return Path(run.of_kind("checkpoint")[0]["path"])


@pytest.fixture(scope="module")
def checkpoint(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of full fine-tuning."""
    return teach(tmp_path_factory.mktemp("full") / "taught", inputs / "model", TAUGHT)


@pytest.fixture(scope="module")
def run(inputs: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return export(tmp_path_factory.mktemp("full") / "export", checkpoint, inputs / "model")


def test_an_exported_model_gives_the_trained_answers(run: Run, inputs: Path) -> None:
    directory = exported(run)
    assert [event["event"] for event in run.events] == ["started", "checkpoint", "finished"]
    event = run.of_kind("checkpoint")[0]
    assert (event["iteration"], event["format"], directory.name) == (40, "huggingface", "iter_0000040")
    assert directory == run.directory / "checkpoints/hf/iter_0000040"
    assert {file["path"]: file["bytes"] for file in event["files"]} == {
        path.name: path.stat().st_size for path in directory.iterdir()
    }
    assert event["bytes"] == sum(file["bytes"] for file in event["files"])
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (directory / name).read_bytes() == (inputs / "model" / name).read_bytes()
    assert answers(directory) == {"dtype": "torch.float32", "answers": TAUGHT}


LORA = {"peft": "lora", "lora": {"dim": 16, "alpha": 32}, "optimizer": {"lr": 1e-2, "min_lr": 2e-3}}


def test_an_adapter_is_merged_with_its_base(run: Run, tmp_path: Path) -> None:
    """The base is the exported model, which gives other answers: base or adapter alone would fail."""
    base = exported(run)
    checkpoint = teach(tmp_path / "taught", base, MOVED, **LORA)
    merged = exported(export(tmp_path / "export", checkpoint, base, peft="lora"))
    assert answers(merged)["answers"] == MOVED
    names = {path.name for path in merged.iterdir()}
    assert names == {path.name for path in base.iterdir()}  # a complete model, and no adapter


def test_an_adapter_is_merged_with_a_megatron_checkpoint(
    inputs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """The Hugging Face directory then needs no weights."""
    bare = tmp_path / "bare"
    shutil.copytree(inputs / "model", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    base = {"peft": "lora", "checkpoint_megatron": str(checkpoint.parent)}
    adapter = teach(tmp_path / "taught", bare, MOVED, **{**LORA, **base})
    merged = exported(export(tmp_path / "export", adapter, bare, **base))
    assert answers(merged)["answers"] == MOVED
