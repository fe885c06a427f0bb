"""Datasets of the hub, with the client of the trainer's environment: rows, and clear errors."""

import subprocess
from pathlib import Path

import pytest

from tests.support.dataset_hub import OLDER, REVISION, dataset_hub
from tests.support.trainer_runs import trainer_python

pytestmark = pytest.mark.training

READ = """
import os, sys
offline = "0" if sys.argv[1] else "1"
os.environ.update(HF_HUB_OFFLINE=offline, HF_ENDPOINT=sys.argv[1], HF_HOME="home", HF_HUB_DISABLE_XET="1")
from trainer.packing.sources import BadSource, Source, records
for split in (None, "test", "other"):
    try:
        print([item.data for item in records([Source("hf://owner/name", split=split)])])
    except BadSource as error:
        print(error)
assert "torch" not in sys.modules
"""
ROW = b'{"messages": [{"role": "user", "content": "a", "name": null}], "n": %d}\n'


def read(directory: Path, endpoint: str = "") -> subprocess.CompletedProcess[str]:
    return trainer_python("-c", READ, endpoint, cwd=directory, check=True)


def test_rows_of_a_split_are_streamed(tmp_path: Path) -> None:
    with dataset_hub({"train.jsonl": ROW % 1 + ROW % 2, "test.jsonl": ROW % 3}) as endpoint:
        train, test, other = read(tmp_path, endpoint).stdout.splitlines()
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": n} for n in (1, 2, 3)]
    assert (train, test) == (str(rows[:2]), str(rows[2:]))
    assert "Bad split: other" in other


PINNED = """
import os, sys
offline = "0" if sys.argv[1] else "1"
os.environ.update(HF_HUB_OFFLINE=offline, HF_ENDPOINT=sys.argv[1], HF_HOME="home", HF_HUB_DISABLE_XET="1")
from trainer.packing.sources import BadSource, Source, records
from trainer.packing.sources.hub import pinned
source = Source("hf://owner/name")
try:
    print(pinned(source).revision)
except BadSource as error:
    raise SystemExit(f"bad source: {error}")
for revision in sys.argv[2:]:
    print([item.data["n"] for item in records([Source("hf://owner/name", revision=revision)])])
"""


def test_a_dataset_is_read_at_one_commit(tmp_path: Path) -> None:
    with dataset_hub({"train.jsonl": ROW % 1}, older={"train.jsonl": ROW % 2}) as endpoint:
        done = trainer_python("-c", PINNED, endpoint, OLDER, REVISION, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == [REVISION, "[2]", "[1]"]
    done = trainer_python("-c", PINNED, "", cwd=tmp_path)
    assert "bad source: hf://owner/name cannot be read" in done.stderr


PACK = """
import os, sys
from pathlib import Path
os.environ.update(HF_HUB_OFFLINE="0", HF_ENDPOINT=sys.argv[1], HF_HOME="home", HF_HUB_DISABLE_XET="1")
from tests.trainer.packing.tokenized import make_tokenizer
from trainer.packing.options import PackOptions
from trainer.packing.pack_sources import pack_sources
make_tokenizer(Path("tokenizer"))
options = PackOptions(mask="all", chat_template=sys.argv[2])
made = pack_sources(["hf://owner/name"], Path("tokenizer"), Path("out"), options)
print(made["sources"][0]["revision"], made["backend_sha256"], made["special_tokens_sha256"])
"""


def test_the_manifest_has_the_commit_and_what_identifies_the_tokenizer(tmp_path: Path) -> None:
    row = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    template = "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"
    with dataset_hub({"train.jsonl": row}) as endpoint:
        done = trainer_python("-c", PACK, endpoint, template, cwd=tmp_path, check=True)
    revision, *digests = done.stdout.splitlines()[-1].split()
    assert revision == REVISION
    assert [len(digest) for digest in digests] == [64, 64]


@pytest.mark.parametrize("path", ["/etc/hostname", "../../x.jsonl"])
def test_a_dataset_cannot_name_files_of_this_machine(tmp_path: Path, path: str) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n"
    with dataset_hub({"README.md": card.encode(), "train.jsonl": ROW % 1}) as endpoint:
        for line in read(tmp_path, endpoint).stdout.splitlines():
            assert "hf://owner/name cannot be read: " in line


def test_a_dataset_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    for line in read(tmp_path).stdout.splitlines():
        assert "hf://owner/name cannot be read: " in line
        assert "It needs network access, and HF_TOKEN" in line


def test_a_local_directory_is_never_read_as_a_dataset_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/x.jsonl").write_text('{"messages": []}\n')
    for line in read(tmp_path).stdout.splitlines():
        assert "there is a local path owner/name" in line
