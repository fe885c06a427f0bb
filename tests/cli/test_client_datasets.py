"""`sft datasets inspect` on a real service."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import packed_data
from tests.support.service import Service
from tests.support.sft import Sft

pytestmark = pytest.mark.slow


@pytest.fixture
def sft(service: Service, tmp_path: Path) -> Sft:
    key = (service.data_dir / "admin.key").read_text().strip()
    return Sft(str(service.client.base_url), key, cwd=tmp_path)


def test_a_dataset_is_shown_to_people_and_scripts(sft: Sft, body: dict[str, Any]) -> None:
    path = body["inputs"]["packed_parquet"]
    done = sft("datasets", "inspect", path, "--full", "--seq-length", "512", "--global-batch-size", "8")
    assert done.returncode == 0, done.stderr
    for text in ("8,192", "50.0% of the tokens read", "16 of 16", "pack size", "train", "valid"):
        assert text in done.stdout
    assert sft.json("datasets", "inspect", path)["rows"] == 16


def test_bad_data_exit_with_1(sft: Sft, service: Service) -> None:
    path = service.data_dir / "inputs" / "bad"
    columns = packed_data.packs(2)
    columns["loss_mask"][1] = [1]
    packed_data.write_shard(path / "a.parquet", columns)
    done = sft("datasets", "inspect", str(path), "--global-batch-size", "8")
    assert done.returncode == 1
    for text in ("row 1: loss_mask has 1 entries", "/global_batch_size", "error"):
        assert text in done.stdout
    assert len(sft.json("datasets", "inspect", str(path), code=1)["problems"]) == 2


def test_a_rejected_request_shows_the_reason(sft: Sft) -> None:
    done = sft("datasets", "inspect", "/etc")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Allowed: " in done.stderr
