"""Container images: imported once per digest, never partial, never stale. enroot and pyxis are fakes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.slurm_service import SlurmService, start_service
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

# The registry is a directory: `tag` holds the digest, `slow` and `broken` control imports.
ENROOT = """#!/bin/bash
registry={registry}
case $1 in
digest) cat "$registry/tag" ;;
import)
    echo "$$ $*" >> "$registry/imports"
    [ ! -e "$registry/broken" ] || {{ echo "no such image" >&2; exit 1; }}
    echo half > "$3"
    while [ -e "$registry/slow" ]; do sleep 0.1; done
    echo "whole $(cat "$registry/tag")" > "$3" ;;
esac
"""
# The options that pyxis adds to srun are accepted, and the image is recorded.
SRUN = """#!/bin/bash
for option; do
    shift
    case $option in
    --container-image=*) cat "${{option#*=}}" >> {registry}/used ;;
    --container-*|--no-container-*) ;;
    *) set -- "$@" "$option" ;;
    esac
done
exec {srun} "$@"
"""


class Registry:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.move_tag("a")

    def move_tag(self, letter: str) -> None:
        (self.directory / "tag").write_text(f"sha256:{letter * 64}\n")

    @property
    def imports(self) -> list[str]:
        path = self.directory / "imports"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def used(self) -> list[str]:
        path = self.directory / "used"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    directory = tmp_path / "registry"
    directory.mkdir()
    return Registry(directory)


@pytest.fixture
def with_images(
    slurm: DemoSlurm, registry: Registry, tmp_path: Path, stand_in: Path, secret_file: Path
) -> Iterator[SlurmService]:
    """A service whose runs use containers."""
    programs = tmp_path / "bin"
    programs.mkdir()
    real = next(path for one in os.environ["PATH"].split(":") if (path := Path(one) / "srun").exists())
    for name, text in (("enroot", ENROOT), ("srun", SRUN)):
        (programs / name).write_text(text.format(registry=registry.directory, srun=real))
        (programs / name).chmod(0o755)
    profile = {
        "container_image": "registry.example.com/team/nemo:26.04",
        "setup_lines": [f"export PATH={programs}:$PATH"],
    }
    path = f"{programs}:{os.environ['PATH']}"
    with start_service(slurm, tmp_path, stand_in, secret_file, profile, PATH=path) as service:
        yield service
        (registry.directory / "slow").unlink(missing_ok=True)
        slurm.run("scancel", "--user=root")


def reason(service: SlurmService, job_id: str) -> str | None:
    """Return why a job waits."""
    found: str | None = (service.job(job_id)["queue"] or {}).get("reason")
    return found


def images(service: SlurmService) -> list[str]:
    return sorted(path.name for path in (service.root / "images").glob("*.sqsh"))


def test_many_jobs_wait_for_one_import(with_images: SlurmService, registry: Registry) -> None:
    (registry.directory / "slow").touch()
    jobs = [with_images.submit(with_images.body())["id"] for _ in range(5)]
    wait_until(lambda: registry.imports, what="the import to start")
    waiting = [wait_until(lambda job_id=one: reason(with_images, job_id), what="a reason") for one in jobs]  # type: ignore[misc]
    assert all(one.startswith("Waits for its container image") for one in waiting)
    assert images(with_images) == []
    (registry.directory / "slow").unlink()
    for job_id in jobs:
        assert with_images.wait_for(job_id)["state"] == "SUCCEEDED"
    assert len(registry.imports) == 1
    assert "docker://registry.example.com#team/nemo:26.04" in registry.imports[0]
    assert registry.used == [f"whole sha256:{'a' * 64}"] * 5


def test_a_tag_that_moved_is_another_image(with_images: SlurmService, registry: Registry) -> None:
    for letter in ("a", "b", "a"):
        registry.move_tag(letter)
        assert with_images.wait_for(with_images.submit(with_images.body())["id"])["state"] == "SUCCEEDED"
    assert len(registry.imports) == 2
    assert registry.used == [f"whole sha256:{letter * 64}" for letter in "aba"]


def test_a_failed_import_is_reported_and_retried(with_images: SlurmService, registry: Registry) -> None:
    (registry.directory / "broken").touch()
    failed = with_images.wait_for(with_images.submit(with_images.body())["id"])
    assert (failed["state"], failed["failure"]["class"]) == ("FAILED", "image_pull")
    assert "no such image" in failed["failure"]["cause"]
    (registry.directory / "broken").unlink()
    assert with_images.wait_for(with_images.submit(with_images.body())["id"])["state"] == "SUCCEEDED"


def test_a_killed_import_leaves_no_image(
    with_images: SlurmService, registry: Registry, slurm: DemoSlurm
) -> None:
    (registry.directory / "slow").touch()
    job_id = with_images.submit(with_images.body())["id"]
    wait_until(lambda: registry.imports, what="the import to start")
    importing = slurm.run("squeue", "--noheader", "--states=RUNNING", "--Format", "JobID").stdout.split()
    slurm.run("scancel", "--signal=KILL", "--full", *importing)
    assert with_images.wait_for(job_id)["failure"]["class"] == "image_pull"
    assert images(with_images) == []
    (registry.directory / "slow").unlink()
    assert with_images.wait_for(with_images.submit(with_images.body())["id"])["state"] == "SUCCEEDED"
    assert registry.used == [f"whole sha256:{'a' * 64}"]


def test_a_fresh_import_keeps_the_old_file_for_its_users(
    with_images: SlurmService, registry: Registry
) -> None:
    holding = with_images.run_until(4)["id"]
    before = images(with_images)
    started = time.time()
    job_id = with_images.submit(with_images.body(force_squash=True))["id"]
    assert with_images.wait_for(job_id)["state"] == "SUCCEEDED"
    assert len(registry.imports) == 2
    assert set(before) < set(images(with_images))
    link = with_images.root / "images" / f"sha256-{'a' * 64}.sqsh"
    assert link.resolve().stat().st_mtime >= started
    with_images.ask(holding, "pause")
    with_images.wait_for(holding, "PAUSED")
    with_images.ask(holding, "cancel")


def test_the_next_import_removes_files_of_killed_imports(with_images: SlurmService) -> None:
    folder = with_images.root / "images"
    folder.mkdir(mode=0o700)
    old, young = (folder / f"sha256-{'a' * 64}.{number}.sqsh.part" for number in (4711, 4712))
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    assert with_images.wait_for(with_images.submit(with_images.body())["id"])["state"] == "SUCCEEDED"
    assert not old.exists()
    assert young.exists()
