"""Values of a config reach Megatron-Bridge's ConfigContainer. In the trainer's environment."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hub_cache import directory_in, make_hub
from tests.support.trainer_runs import need_trainer, trainer_python
from trainer.config.bridge_schema import DATA
from trainer.config.models import MODELS, NANO, SUPER

pytestmark = [pytest.mark.training, pytest.mark.slow]

READ = """
import json, sys, yaml
from trainer.bridge import compat; compat.install()
from trainer.config.training_config import TrainingConfig
from trainer.bridge.container import build
for path, keys in json.loads(sys.argv[1]):
    found, container = {}, build(TrainingConfig.model_validate(yaml.safe_load(open(path))))
    for key in keys:
        value = container
        for name in key.split("."):
            value = getattr(value, name)
        plain = isinstance(value, (int, float, str, type(None)))
        found[key] = value if plain else getattr(value, "name", str(value))
    print("FOUND" + json.dumps(found))
"""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the models' files of the hub."""
    need_trainer()
    hub = make_hub(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    return hub


def built(tmp_path: Path, *cases: tuple[dict[str, Any], list[str]]) -> list[dict[str, Any]]:
    """Values of the containers that are built from these configs, by dotted key."""
    shard = tmp_path / "packed" / "splits" / "train" / "a.parquet"
    shard.parent.mkdir(parents=True)
    shard.touch()
    wanted = []
    for number, (values, keys) in enumerate(cases):
        path = tmp_path / f"{number}.yaml"
        data = {"dataset": {"nano3_packed_sft_dir": str(tmp_path / "packed"), **values.pop("dataset", {})}}
        path.write_text(yaml.safe_dump({**values, **data}))
        wanted.append((str(path), keys))
    done = trainer_python("-c", READ, json.dumps(wanted))
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("FOUND")]


def test_values_reach_the_container(tmp_path: Path, hub: Path) -> None:
    asked = {
        "hf_model_path": SUPER, "seq_length": 8192,
        "recipe": {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 4, "train_iters": 77},
        "model": {"attention_backend": "flash"}, "train": {"global_batch_size": 64},
        "comm_overlap": {"tp_comm_overlap": False}, "mixed_precision": {"grad_reduce_in_fp32": True},
        "checkpoint": {"save": str(tmp_path / "save")},
    }  # fmt: skip
    expected = {
        "model.tensor_model_parallel_size": 8, "model.pipeline_model_parallel_size": 4,
        "train.train_iters": 77,
        "model.attention_backend": "flash", "train.global_batch_size": 64, "model.num_moe_experts": 512,
        "model.seq_length": 8192, "dataset.seq_length": 8192,
        "dataset.offline_packing_specs.packed_sequence_size": 8192,
        "comm_overlap.tp_comm_overlap": False, "mixed_precision.grad_reduce_in_fp32": True,
        "checkpoint.pretrained_checkpoint": str(directory_in(hub, SUPER)), "checkpoint.load": None,
        "peft": None,
        "checkpoint.save": str(tmp_path / "save"), "dataset.dataset_root": str(tmp_path / "packed"),
    }  # fmt: skip
    lora = {"hf_model_path": NANO, "peft": "lora", "lora": {"dim": 8}, "recipe": {"context_parallel_size": 2}}
    expected_of_lora = {
        "peft.dim": 8, "peft.alpha": 32, "model.context_parallel_size": 2,
        "dataset.offline_packing_specs.pad_seq_to_mult": 4, "optimizer.lr": 1e-4,
    }  # fmt: skip
    based = {"hf_model_path": NANO, "checkpoint_megatron": "/models/base", "mixed_precision": "bf16_mixed"}
    expected_of_based = {"checkpoint.pretrained_checkpoint": "/models/base", "mixed_precision": "bf16_mixed"}
    found = built(
        tmp_path, (asked, list(expected)), (lora, list(expected_of_lora)), (based, list(expected_of_based))
    )
    assert found == [expected, expected_of_lora, expected_of_based]


def test_every_model_of_the_table_has_a_recipe(tmp_path: Path) -> None:
    cases = [
        ({"hf_model_path": one.id, "peft": peft}, ["model.hidden_size"])
        for one in MODELS
        for peft in (None, "lora")
    ]
    assert [one["model.hidden_size"] for one in built(tmp_path, *cases)] == [
        2688,
        2688,
        4096,
        4096,
        2688,
        2688,
        3136,
        3136,
    ]


def test_bridge_json_describes_the_installed_bridge(tmp_path: Path) -> None:
    done = trainer_python("-m", "trainer.bridge.describe", "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "new").read_text() == DATA.read_text(), "run `make schema`"
