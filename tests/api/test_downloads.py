"""Files of checkpoints on a remote cluster, downloaded byte for byte over SSH."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.remote_cluster import write_profiles
from tests.support.sshd import Sshd
from trainer.run_layout import JobLayout
from worker.backends.access import ssh
from worker.clock import utcnow
from worker.db.models import Attempt, Checkpoint, Job
from worker.db.session import writing
from worker.errors import BackendUnavailable, CheckpointChanged
from worker.jobs import checkpoints, queries
from worker.jobs.checkpoints import CHUNK_BYTES

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

CONTENT = os.urandom(2 * CHUNK_BYTES + 12345)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    (tmp_path / "sshd").mkdir()
    running = Sshd(tmp_path / "sshd")
    running.start()
    yield running
    ssh.disconnect()
    running.stop()


@pytest.fixture(params=["near", "far"])
def job(
    client: TestClient, good: dict[str, Any], data_dir: Path, server: Sshd, request: pytest.FixtureRequest
) -> Job:
    """Return a job on this machine, and a job on a cluster over SSH."""
    write_profiles(data_dir, server)
    answer = client.post("/v1/jobs", json={**good, "cluster": request.param})
    assert answer.status_code == 201, answer.text
    return queries.get(answer.json()["id"])


@pytest.fixture
def save(job: Job) -> Callable[..., Path]:
    """Return a function that writes a checkpoint's files and its database row."""
    return partial(add_checkpoint, job)


def add_checkpoint(job: Job, iteration: int, files: dict[str, bytes], directory: Path | None = None) -> Path:
    saved = Path(job.config["checkpoint"]["save"])
    saved.mkdir(parents=True, exist_ok=True)
    directory = directory or saved / f"iter_{iteration:07d}"
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    noted = [{"path": name, "bytes": len(content)} for name, content in files.items()]
    total = sum(map(len, files.values()))
    facts = {"path": str(directory), "bytes": total, "files": noted, "saved_at": utcnow()}
    with writing() as session:
        session.add(Checkpoint(job_id=job.id, iteration=iteration, attempt=1, **facts))
    return directory


def url(job: Job, iteration: int, name: str) -> str:
    return f"/v1/jobs/{job.id}/checkpoints/{iteration}/{name}"


def test_a_file_is_downloaded_completely_and_by_ranges(
    client: TestClient, job: Job, save: Callable[..., Path]
) -> None:
    save(4, {"weights": CONTENT, "empty": b"", "sub/é": b"1234"})
    address = url(job, 4, "files/weights")
    complete = client.get(address)
    assert (complete.status_code, complete.content) == (200, CONTENT)
    assert complete.headers["content-length"] == str(len(CONTENT))
    assert complete.headers["accept-ranges"] == "bytes"
    assert complete.headers["content-disposition"] == 'attachment; filename="weights"'
    size = len(CONTENT)
    for wanted, begin, end in (
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        (f"{CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (f"{size - 1}-", size - 1, size),
        ("5-99999999", 5, size),
        ("-7", size - 7, size),
        ("-99999999", 0, size),
    ):
        part = client.get(address, headers={"Range": f"bytes={wanted}"})
        assert (part.status_code, part.content == CONTENT[begin:end]) == (206, True), wanted
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
        assert part.headers["content-length"] == str(end - begin)
    assert client.get(url(job, 4, "files/empty")).content == b""
    other = client.get(url(job, 4, "files/sub/é"))
    assert (other.content, other.headers["content-disposition"]) == (
        b"1234", "attachment; filename*=utf-8''%C3%A9",
    )  # fmt: skip


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=5-1", "bytes=-0", "bytes=0-1,3-4", "lines=1-2"])
def test_invalid_ranges_are_rejected(
    client: TestClient, job: Job, save: Callable[..., Path], wanted: str
) -> None:
    save(4, {"weights": CONTENT})
    answer = client.get(url(job, 4, "files/weights"), headers={"Range": wanted})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_invalid")


def test_a_range_of_another_version_returns_the_complete_file(
    client: TestClient, job: Job, save: Callable[..., Path]
) -> None:
    directory = save(4, {"weights": b"first"})
    address = url(job, 4, "files/weights")
    seen = client.get(address).headers
    for tag in (seen["etag"], seen["last-modified"]):
        assert client.get(address, headers={"Range": "bytes=1-", "If-Range": tag}).content == b"irst"
    (directory / "weights").write_bytes(b"another")
    again = client.get(address, headers={"Range": "bytes=1-", "If-Range": seen["etag"]})
    assert (again.status_code, again.content) == (200, b"another")


def test_an_archive_holds_every_file(client: TestClient, job: Job, save: Callable[..., Path]) -> None:
    files = {"weights": CONTENT, "empty": b"", "sub/x": b"1234"}
    save(4, files)
    answer = client.get(url(job, 4, "archive"))
    assert answer.headers["content-length"] == str(len(answer.content))
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
    assert {name: file.read() for name, file in members.items() if file} == {
        f"iter_0000004/{name}": content for name, content in files.items()
    }


@pytest.mark.parametrize("harm", ["gone", "link", "linked directory", "loop", "elsewhere"])
def test_only_files_that_the_job_saved_are_served(
    client: TestClient, job: Job, save: Callable[..., Path], tmp_path: Path, harm: str
) -> None:
    outside = tmp_path / "outside"
    directory = save(4, {"sub/weights": b"1234"}, outside if harm == "elsewhere" else None)
    file = directory / "sub/weights"
    if harm in ("gone", "link"):
        file.unlink()
    if harm == "link":
        (tmp_path / "secret").write_bytes(b"1234")
        file.symlink_to(tmp_path / "secret")
    if harm in ("linked directory", "loop"):
        (directory / "sub").rename(outside)
        (directory / "sub").symlink_to(outside if harm == "linked directory" else "sub")
    one = client.get(url(job, 4, "files/sub/weights"))
    # SFTP has no error code for a loop of links: the service knows only that the file cannot be read.
    assert one.status_code == 404 or (harm == "loop" and one.status_code == 503)
    assert client.get(url(job, 4, "archive")).status_code in (409, one.status_code)


@pytest.mark.parametrize("swapped", ["checkpoints", "iter", "job", "file"])
def test_a_save_directory_that_became_a_link_is_not_followed(
    client: TestClient, job: Job, save: Callable[..., Path], tmp_path: Path, swapped: str
) -> None:
    """The attack: after the job was made, something on the way is replaced by a link out of the roots."""
    file = save(4, {"weights": b"1234"}) / "weights"
    place = {"file": file, "iter": file.parent, "checkpoints": file.parents[1], "job": file.parents[2]}[
        swapped
    ]
    other = tmp_path / "other" / file.relative_to(place.parent)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"evil")
    place.rename(tmp_path / "aside")
    place.symlink_to(tmp_path / "other" / place.name)
    assert file.read_bytes() == b"evil"
    assert client.get(url(job, 4, "files/weights")).status_code == 404
    assert client.get(url(job, 4, "archive")).status_code == 409


def test_the_save_directory_may_lie_behind_links_of_before(
    client: TestClient, good: dict[str, Any], data_dir: Path, server: Sshd
) -> None:
    """Where the service sees the files: links are resolved when the job is made, and not followed later."""
    roots = data_dir / "roots"
    (data_dir / "storage/team/deep").mkdir(parents=True)
    roots.symlink_to("storage")  # the operator's
    (roots / "short").symlink_to("team/deep")
    write_profiles(data_dir, server, roots=[str(roots), str(data_dir / "inputs")])
    overrides = [*good["overrides"], f"checkpoint.save={roots}/short/new"]
    made = client.post("/v1/jobs", json={**good, "cluster": "near", "overrides": overrides}).json()
    job = queries.get(made["id"])
    assert job.config["checkpoint"]["save"] == str(roots / "team/deep/new")
    add_checkpoint(job, 4, {"weights": b"1234"})
    assert client.get(url(job, 4, "files/weights")).content == b"1234"
    # The root may move with its link; below it nothing may.
    roots.unlink()
    (data_dir / "storage").rename(data_dir / "elsewhere")
    roots.symlink_to("elsewhere")
    assert client.get(url(job, 4, "files/weights")).content == b"1234"
    (roots / "team").rename(roots / "aside")
    (roots / "team").symlink_to("aside")
    assert client.get(url(job, 4, "files/weights")).status_code == 404


def test_a_root_that_the_profile_no_longer_has_is_not_served(
    client: TestClient, good: dict[str, Any], data_dir: Path, server: Sshd
) -> None:
    (data_dir / "roots").mkdir()
    write_profiles(data_dir, server, roots=[str(data_dir / "roots"), str(data_dir / "inputs")])
    overrides = [*good["overrides"], f"checkpoint.save={data_dir}/roots/new"]
    made = client.post("/v1/jobs", json={**good, "cluster": "near", "overrides": overrides}).json()
    job = queries.get(made["id"])
    add_checkpoint(job, 4, {"weights": b"1234"})
    assert client.get(url(job, 4, "files/weights")).content == b"1234"
    write_profiles(data_dir, server)
    assert client.get(url(job, 4, "files/weights")).status_code == 404
    answer = client.get(url(job, 4, "archive"))
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint_changed")
    assert "roots" in answer.json()["detail"]


def test_logs_are_not_read_through_links(client: TestClient, job: Job, tmp_path: Path) -> None:
    layout = JobLayout(Path(job.config["checkpoint"]["save"]).parent).attempt(1)
    (tmp_path / "other").mkdir()
    for name in ("job.log", "rank-0.log"):
        (tmp_path / "other" / name).write_text("of others")
    layout.directory.mkdir(parents=True)
    layout.logs.symlink_to(tmp_path / "other")
    with writing() as session:
        session.get_one(Attempt, (job.id, 1)).directory = str(layout.directory)
    assert client.get(f"/v1/jobs/{job.id}/logs").json()["text"] == ""
    assert client.get(f"/v1/jobs/{job.id}/logs?rank=0").status_code == 404


def test_a_change_or_failure_during_a_download_is_detected(
    job: Job, save: Callable[..., Path], server: Sshd
) -> None:
    directory = save(4, {"weights": CONTENT})
    cut = checkpoints.saved_file(job, 4, "weights").chunks(0, len(CONTENT))
    assert next(cut) == CONTENT[:CHUNK_BYTES]
    changed = checkpoints.saved_file(job, 4, "weights").chunks(0, len(CONTENT))
    next(changed)
    if job.cluster == "far":
        server.stop()
        with pytest.raises(BackendUnavailable):
            next(cut)
        server.start()
    os.utime(directory / "weights", (1, 1))
    with pytest.raises(CheckpointChanged):
        list(changed)
