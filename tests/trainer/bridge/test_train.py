"""Real fine-tuning with Megatron-Bridge on the CPU, checked by the files in the run directory."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_runs import check_log_lines, place, start, train
from tests.support.waiting import wait_until

pytestmark = pytest.mark.training

Config = Callable[..., dict[str, Any]]


def test_a_run_trains_saves_and_can_be_resumed_and_evaluated(config: Config, tmp_path: Path) -> None:
    complete = train(tmp_path / "complete", config())
    assert complete.end["event"] == "finished", complete.log()
    assert [event["event"] for event in complete.events] == [
        "started", "validation", "step", "step", "step", "validation", "checkpoint",
        "step", "step", "step", "validation", "checkpoint", "finished",
    ]  # fmt: skip
    assert complete.losses()[6] < complete.losses()[1]
    assert list(complete.validation_losses()) == [0, 3, 6]
    check_log_lines(complete)
    _check_checkpoint(complete.of_kind("checkpoint")[-1], iteration=6)

    # A resumed run begins after the last complete checkpoint and repeats the losses that followed it.
    os.truncate(tmp_path / "checkpoints/iter_0000006/__0_0.distcp", 1_000_000)
    resumed = train(tmp_path / "resumed", config())
    assert resumed.end["event"] == "finished", resumed.log()
    assert resumed.of_kind("started")[0]["start_step"] == 3
    assert resumed.losses() == pytest.approx({step: complete.losses()[step] for step in (4, 5, 6)}, rel=1e-6)

    # A new process that only validates the checkpoint reproduces the reported loss.
    load = {"load": str(tmp_path / "checkpoints"), "save": str(tmp_path / "elsewhere")}
    validated = train(tmp_path / "validated", config(checkpoint=load, validation={"skip_train": True}))
    assert validated.end["event"] == "finished", validated.log()
    assert validated.validation_losses()[6] == pytest.approx(complete.validation_losses()[6], rel=1e-6)
    assert validated.losses() == {}


def test_a_run_trains_on_a_pattern_and_writes_no_file_beside_the_data(
    config: Config, inputs: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(inputs / "packed/splits/train", flat)
    pattern = {"nano3_packed_sft_dir": str(flat / "part-*.parquet")}
    run = train(tmp_path / "run", config(dataset=pattern, train={"train_iters": 1}))
    assert run.end["event"] == "finished", run.log()
    assert [path.name for path in flat.iterdir()] == ["part-00000.parquet"]


def _check_checkpoint(event: dict[str, Any], iteration: int) -> None:
    path = Path(event["path"])
    assert event["iteration"] == iteration
    assert path.name == f"iter_{iteration:07d}"
    assert event["bytes"] == sum(file["bytes"] for file in event["files"]) > 1_000_000
    for file in event["files"]:
        assert (path / file["path"]).stat().st_size == file["bytes"]
    assert {".metadata", "run_config.yaml", "train_state.pt"} <= {file["path"] for file in event["files"]}


@pytest.mark.parametrize("split", ["tensor_model_parallel_size", "data"])
def test_two_ranks_stop_together_on_request(config: Config, tmp_path: Path, split: str) -> None:
    recipe = {split: 2} if split != "data" else {}
    run = place(tmp_path / "run", config(recipe=recipe, train={"train_iters": 1000}))
    process = start(run, ranks=2)
    wait_until(lambda: len(run.losses()) >= 1 or process.poll() is not None, 200, "the first step")
    (run.directory / "request").write_text("the test has seen enough")
    (run.directory / "request").rename(run.directory / "stop")
    process.wait(120)
    assert run.end["event"] == "stopped", run.log()
    assert run.end["reason"] == "the test has seen enough"
    assert run.end["iteration"] == run.end["step"] == max(run.losses())
    _check_checkpoint(run.of_kind("checkpoint")[-1], iteration=run.end["step"])
    assert run.of_kind("started")[0]["world_size"] == 2
    assert {path.name for path in (run.directory / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}


def test_an_adapter_is_trained_and_saved(config: Config, tmp_path: Path) -> None:
    apart = {"validation": {"eval_interval": 2}}  # no validation between the last step and its save
    run = train(tmp_path / "run", config(peft="lora", lora={"dim": 4}, train={"train_iters": 3}, **apart))
    assert run.end["event"] == "finished", run.log()
    assert run.losses()[3] < run.losses()[1]
    check_log_lines(run)
    assert run.of_kind("checkpoint")[-1]["bytes"] > 0


def test_an_unknown_key_is_rejected_with_the_nearest(config: Config, tmp_path: Path) -> None:
    run = train(tmp_path / "run", config(train={"gloabl_batch_size": 8}))
    assert (run.end["event"], run.end["code"]) == ("failed", "invalid_config"), run.log()
    assert "Did you mean 'train.global_batch_size'?" in run.end["message"]
    assert "megatron" not in run.log()  # rejected before torch is imported


def test_a_base_with_other_names_of_weights_is_rejected(config: Config, tmp_path: Path) -> None:
    """Bridge would train the embedding from random values and only log a hidden warning."""
    model = Path(shutil.copytree(config()["hf_model_path"], tmp_path / "model"))
    rename_tensor(model / "model.safetensors", "model.embed_tokens.weight", "model.embedding.weight")
    run = train(tmp_path / "run", config(hf_model_path=str(model)))
    assert (run.end["event"], run.end["code"]) == ("failed", "bad_checkpoint"), run.log()
    assert "model.embed_tokens.weight" in run.end["message"]


def rename_tensor(file: Path, name: str, other: str) -> None:
    """Rename a tensor in a safetensors file: eight bytes of length, a JSON header, the tensors."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header[other] = header.pop(name)
    written = json.dumps(header).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + content[end:])
