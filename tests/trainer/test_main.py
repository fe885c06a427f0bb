"""An invalid config is rejected before torch is imported: the tests run without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import packed_data
from tests.support.trainer_runs import PROJECT


def rejected(directory: Path, text: str, **variables: str) -> dict[str, Any]:
    """Start the trainer in the service's environment, and return its end marker."""
    (directory / "config.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **variables}
    command = [sys.executable, "-m", "trainer", str(directory / "config.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    marker: dict[str, Any] = json.loads((directory / "end.json").read_text())
    assert marker["event"] == "failed"
    assert "traceback" not in marker
    return marker


@pytest.mark.parametrize("text", ["a: [", "seq_lenght: 512", "seq_length: many", "[]"])
def test_an_invalid_config_is_reported(tmp_path: Path, text: str) -> None:
    assert rejected(tmp_path, text)["code"] == "invalid_config"


def test_missing_data_is_reported_with_a_way_to_create_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    config = {"hf_model_path": str(tmp_path), "dataset": {"nano3_packed_sft_dir": str(tmp_path)}}
    marker = rejected(tmp_path, yaml.safe_dump(config))
    assert marker["code"] == "missing_packed_data"
    assert str(tmp_path / "train") in marker["message"]
    assert "data_prep/sft_packing" in marker["message"]


def test_a_missing_base_checkpoint_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    packed_data.make_dataset(tmp_path, pack_size=4096)
    config = {
        "hf_model_path": str(tmp_path),
        "checkpoint_megatron": str(tmp_path / "nothing"),
        "dataset": {"nano3_packed_sft_dir": str(tmp_path)},
    }
    assert rejected(tmp_path, yaml.safe_dump(config))["code"] == "bad_checkpoint"


@pytest.mark.parametrize("linked", ["packed/splits/train/part-00000.parquet", "model/config.json"])
def test_a_link_out_of_the_roots_is_rejected(tmp_path: Path, linked: str) -> None:
    """It may have been put there since the job was planned."""
    roots = tmp_path / "roots"
    (roots / "model").mkdir(parents=True)
    (roots / "model/config.json").write_text("{}")
    packed_data.make_dataset(roots / "packed", pack_size=4096)
    (roots / linked).rename(tmp_path / "aside")
    (roots / linked).symlink_to(tmp_path / "aside")
    config = {
        "hf_model_path": str(roots / "model"),
        "dataset": {"nano3_packed_sft_dir": str(roots / "packed")},
    }
    marker = rejected(tmp_path, yaml.safe_dump(config), SFT_ROOTS=json.dumps([str(roots)]))
    assert marker["code"] == "path_not_allowed"
    assert str(roots / linked) in marker["message"]


def test_output_is_copied_to_the_log_of_the_rank(tmp_path: Path) -> None:
    marker = rejected(tmp_path, "[]")
    log = (tmp_path / "logs/rank-0.log").read_text()
    assert marker["message"].splitlines()[0] in log
    assert "SFT_EVENT" in log
