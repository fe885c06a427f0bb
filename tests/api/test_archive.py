"""A checkpoint as a tar file, or a single file: a download is complete, or detectably incomplete."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.process import forget_settings
from tests.support.service import Service
from tests.support.waiting import wait_until
from worker.clock import utcnow
from worker.db.models import Checkpoint
from worker.db.session import writing
from worker.jobs import queries

pytestmark = pytest.mark.slow

BIG = 200 << 20


@pytest.fixture
def job(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    return service.wait_for(service.submit(body)["id"])


@pytest.fixture
def big(service: Service, job: dict[str, Any], environment: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the job's checkpoint 9 that is larger than all buffers of the connection."""
    environment.setenv("SFT_DATA_DIR", str(service.data_dir))
    forget_settings()
    directory = Path(queries.get(job["id"]).config["checkpoint"]["save"]) / "iter_0000009"
    directory.mkdir()
    with (directory / "weights").open("wb") as file:
        file.truncate(BIG)
    files = [{"path": "weights", "bytes": BIG}]
    facts = {"path": str(directory), "bytes": BIG, "files": files, "saved_at": utcnow()}
    with writing() as session:
        session.add(Checkpoint(job_id=job["id"], iteration=9, attempt=1, **facts))
    yield directory / "weights"
    (directory / "weights").unlink(missing_ok=True)


def url(job: dict[str, Any], iteration: int) -> str:
    return f"/v1/jobs/{job['id']}/checkpoints/{iteration}"


def test_an_archive_holds_every_file_as_saved(service: Service, job: dict[str, Any]) -> None:
    saved = service.client.get(url(job, 4)).json()
    answer = service.client.get(f"{url(job, 4)}/archive")
    assert answer.headers["content-disposition"] == 'attachment; filename="test-iter_0000004.tar"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert {f"iter_0000004/{file['path']}" for file in saved["files"]} == set(tar.getnames())
        for member in tar:
            source = Path(saved["path"]) / Path(member.name).name
            content = tar.extractfile(member)
            assert content is not None
            assert content.read() == source.read_bytes()


@pytest.mark.parametrize("harm", ["gone", "longer", "link"])
def test_a_changed_checkpoint_is_rejected_before_the_download_begins(
    service: Service, job: dict[str, Any], harm: str
) -> None:
    file = Path(service.client.get(url(job, 4)).json()["path"]) / "metadata.json"
    if harm == "longer":
        file.write_text("{} and more")
    else:
        file.unlink()
    if harm == "link":
        file.symlink_to("/etc/hostname")
    answer = service.client.get(f"{url(job, 4)}/archive")
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_changed")
    assert "metadata.json" in answer.json()["detail"]


@pytest.mark.parametrize("what", ["archive", "files/weights"])
@pytest.mark.parametrize("harm", ["rewritten", "shorter", "gone"])
def test_a_change_during_the_download_closes_the_connection(
    service: Service, job: dict[str, Any], big: Path, harm: str, what: str
) -> None:
    with service.client.stream("GET", f"{url(job, 9)}/{what}") as answer:
        assert int(answer.headers["content-length"]) >= BIG
        pieces = answer.iter_bytes(1 << 16)
        next(pieces)
        if harm == "rewritten":
            with big.open("r+b") as file:
                file.seek(BIG - 1)
                file.write(b"x")
        elif harm == "shorter":
            with big.open("r+b") as file:
                file.truncate(BIG // 2)
        else:
            big.unlink()
        with pytest.raises(httpx2.RemoteProtocolError):
            for _ in pieces:
                pass
    assert service.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("what", ["archive", "files/weights"])
@pytest.mark.parametrize("swapped", ["weights", "iter_0000009", "checkpoints"])
def test_a_swap_during_the_download_shows_no_byte_of_another_file(
    service: Service, job: dict[str, Any], big: Path, tmp_path: Path, swapped: str, what: str
) -> None:
    place = next(path for path in (big, *big.parents) if path.name == swapped)
    other = tmp_path / "other" / big.relative_to(place.parent)
    other.parent.mkdir(parents=True)
    with other.open("wb") as file:
        file.truncate(BIG)
        for offset in range(0, BIG, 1 << 16):
            file.seek(offset)
            file.write(b"evil")
    os.utime(other, ns=(big.stat().st_mtime_ns,) * 2)
    received = set()
    with service.client.stream("GET", f"{url(job, 9)}/{what}") as answer:
        pieces = answer.iter_bytes(1 << 20)
        next(pieces)
        place.rename(tmp_path / "aside")
        place.symlink_to(tmp_path / "other" / place.name)
        with suppress(httpx2.RemoteProtocolError):
            for piece in pieces:
                received |= set(piece)
    place.unlink()
    (tmp_path / "aside").rename(place)
    assert received == {0}


@pytest.mark.parametrize("what", ["archive", "files/weights"])
def test_a_client_that_goes_away_leaves_no_open_file(
    service: Service, job: dict[str, Any], big: Path, what: str
) -> None:
    api = service.children()["api"]

    def is_open() -> bool:
        return str(big) in {file.path for file in api.open_files()}

    for _ in range(3):
        with service.client.stream("GET", f"{url(job, 9)}/{what}") as answer:
            next(answer.iter_bytes(1 << 16))
            wait_until(is_open, what="the file to be opened")  # an archive begins with a header
    wait_until(lambda: not is_open(), what="the end of the downloads")
    assert service.client.get(f"{url(job, 9)}/files/weights", headers={"Range": "bytes=0-9"}).content
    wrong = service.client.get(f"{url(job, 9)}/files/weights", headers={"Range": f"bytes={BIG}-"})
    assert wrong.status_code == 416
    assert not is_open()


def test_a_long_archive_needs_little_memory(service: Service, job: dict[str, Any], big: Path) -> None:
    api = service.children()["api"]
    before, received = api.memory_info().rss, 0
    with service.client.stream("GET", f"{url(job, 9)}/archive") as answer:
        for piece in answer.iter_bytes(1 << 20):
            received += len(piece)
    assert received > BIG
    assert api.memory_info().rss - before < BIG // 4
