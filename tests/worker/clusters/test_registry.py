"""Cluster profiles: read from a file, errors explained, paths kept under their roots."""

import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.process import forget_settings
from worker.clusters import registry
from worker.clusters.profiles import LocalCluster
from worker.clusters.profiles.base import minutes
from worker.errors import Misconfigured, NotFound
from worker.settings import PROJECT_ROOT

Write = Callable[[str], None]


@pytest.fixture
def profiles(environment: pytest.MonkeyPatch, data_dir: Path) -> Write:
    def write(text: str) -> None:
        (data_dir / "clusters.toml").write_text(text)
        forget_settings()

    return write


def test_the_default_cluster_is_this_machine(profiles: Write, data_dir: Path) -> None:
    [local] = registry.clusters().values()
    assert (local.name, local.roots) == ("local", [data_dir / "inputs"])


def test_a_profile_has_defaults_and_limits(profiles: Write) -> None:
    profiles('[big]\ngpus_per_node = 2\ntime = "00:30:01"\nmax_gpus_per_node = 4\nmax_time = "10:00:00"\n')
    big = registry.cluster("big")
    assert big.defaults.model_dump() == {"nodes": 1, "gpus_per_node": 2, "time_limit_minutes": 31}
    assert big.limits.model_dump() == {"nodes": 1, "gpus_per_node": 4, "time_limit_minutes": 600}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[local", "Expected"),
        ("local = 1", "cannot be used"),
        ("[local]\nmax_runing = 2", "max_runing: There is no such field. Did you mean 'max_running'?"),
        ('[c]\nexecutor = "slurm"\nremote_job_dir = "/c"\nacount = "llm"', "Did you mean 'account'?"),
        ('[local]\ntime = "4h"', "HH:MM:SS"),
        ('[local]\nexecutor = "kubernetes"', "executor"),
    ],
)
def test_an_invalid_file_is_reported_with_its_error(
    profiles: Write, data_dir: Path, text: str, message: str
) -> None:
    profiles(text)
    with pytest.raises(Misconfigured) as caught:
        registry.clusters()
    assert message in str(caught.value)
    assert str(data_dir / "clusters.toml") in str(caught.value)


def test_an_unknown_cluster_is_reported_with_the_known_ones(profiles: Write) -> None:
    profiles("[alpha]\n[beta]\n")
    with pytest.raises(NotFound) as caught:
        registry.cluster("gamma-ray")
    assert "alpha, beta" in str(caught.value.hint)


def test_symlinks_do_not_lead_out_of_the_roots(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to("/etc")
    (tmp_path / "in").symlink_to(root)
    profile = LocalCluster(name="x", roots=[tmp_path / "in"])
    assert profile.allows(root / "a" / "b")
    assert profile.allows(tmp_path / "in" / "a")
    assert not profile.allows(root / "out" / "passwd")
    assert not profile.allows(root / ".." / "other")
    assert not profile.allows(tmp_path / "root-2")


@pytest.mark.parametrize(("text", "expected"), [("00:00:01", 1), ("01:30:00", 90), ("100:00:00", 6000)])
def test_times_are_minutes_rounded_up(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_defaults_above_the_limits_are_rejected() -> None:
    with pytest.raises(ValidationError, match="the default of 2 nodes is more than the limit of 1"):
        LocalCluster(name="x", nodes=2)
    assert LocalCluster(name="x", max_time="00:45:00").defaults.time_limit_minutes == 45


@pytest.mark.parametrize("page", ["slurm.md", "lepton.md"])
def test_the_profile_of_the_docs_is_valid(
    page: str, profiles: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", "a-token")
    text = (PROJECT_ROOT / "docs" / page).read_text()
    example = re.search(r"## A profile\n\n((?:    .*\n|\n)+)", text)
    assert example
    profiles(textwrap.dedent(example[1]))
    assert [one for one in registry.clusters().values() if one.executor == page.removesuffix(".md")]


@pytest.mark.parametrize(
    ("given", "umask"),
    [
        ('"0640"', 0o027),
        ('"640"', 0o027),
        ("0o640", 0o027),
        ('"0600"', 0o077),
        ('"0660"', 0o007),
        ('"0644"', 0o022),
        ('"0664"', 0o002),
    ],
)
def test_a_file_mode_is_the_umask_of_runs(given: str, umask: int) -> None:
    table = tomllib.loads(f"file_mode = {given}")
    assert LocalCluster(name="local", **table).umask == umask


@pytest.mark.parametrize(
    "given", ["640", '"0666"', '"0777"', '"0400"', '"rw-r-----"', "0o1640", "-1", "true", '""']
)
def test_another_file_mode_is_rejected(given: str) -> None:
    with pytest.raises(ValidationError, match="file_mode"):
        LocalCluster(name="local", **tomllib.loads(f"file_mode = {given}"))


def test_runs_of_all_clusters_have_the_default_mode() -> None:
    assert LocalCluster(name="local").umask == 0o027
