"""What a run sees of this machine: the command line of bwrap, and where an interpreter's code lies."""

from pathlib import Path

import pytest

from trainer.run_layout import RunLayout
from worker.backends.local.interpreter import code_of
from worker.backends.local.isolation import Machine, View, arguments
from worker.settings import PROJECT_ROOT

GOLDEN = PROJECT_ROOT / "tests" / "golden" / "local" / "bwrap.txt"
HOME = Path("/home/anna")


def machine(**changes: object) -> Machine:
    usual = {
        "code": frozenset({Path("/env")}),
        "devices": frozenset({Path("/dev/nvidia0")}),
        "hub_cache": Path("/home/anna/.cache/huggingface/hub"),
        "downloads": False,
        "real_hidden": Path("/data"),
        "real_write": frozenset({Path("/mnt/team")}),
        "as_root": True,
    }
    return Machine(**{**usual, **changes})  # type: ignore[arg-type]


def lines(view: View, run: str, here: Machine) -> list[str]:
    """Return one option of bwrap with its values in each line."""
    options = arguments(view, RunLayout(Path(run)), here)
    return " ".join(options).replace(" --", "\n--").splitlines()


def test_a_run_renders_to_the_golden_command_line() -> None:
    view = View(hidden="/data", read=["/code/trainer"], write=["/data/inputs", "/lustre/team"])
    found = lines(view, "/data/jobs/job-1/attempts/2", machine())
    assert found == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize(
    "view",
    [
        View(hidden="/srv/data", write=["/srv"]),
        View(hidden="/srv/data", write=["/srv/data"]),
        View(hidden="/srv/data", write=["/"]),
        View(hidden="/srv/data", read=["/srv", "/srv/data", "/srv/data/jobs"]),
        View(hidden="/srv/x/../data", write=["/srv"]),
    ],
)
def test_the_data_directory_is_hidden_wherever_it_lies(view: View) -> None:
    run = f"{view.hidden}/jobs/job-1/attempts/1"
    found = lines(view, run, machine(hub_cache=Path("/srv/data"), real_hidden=Path("/srv/data")))
    shown = [line for line in found if line.startswith(("--bind", "--ro-bind"))]
    hidden = max(found.index(f"--tmpfs {path}") for path in (view.hidden, "/srv/data"))
    late = [line.split()[1] for line in shown if found.index(line) > hidden]
    inside = {f"{run}{name}" for name in ("", "/logs", "/config.yaml", "/run.json", "/pid.json", "/run.lock")}
    of_data = {path for path in late if path.startswith(("/srv/data", view.hidden))}
    assert of_data - {"/srv/data/jobs"} == {*inside, f"{view.hidden}/jobs/job-1/checkpoints"}
    assert f"--remount-ro {view.hidden}" in found


# -- interpreters ----------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """Return the prefix of an installation of Python."""
    prefix = tmp_path / "installation"
    for path in ("bin", "lib/python3.12"):
        (prefix / path).mkdir(parents=True)
    (prefix / "bin" / "python3.12").touch()
    return prefix


def test_an_environment_needs_itself_and_the_installation_behind_its_links(
    installation: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text(f"home = {installation}/bin\nversion = 3.12.1\n")
    (tmp_path / "linked").symlink_to(environment)
    (environment / "bin" / "python3").symlink_to("../../installation/bin/python3.12")
    (environment / "bin" / "python").symlink_to("python3")
    assert code_of(environment / "bin" / "python", HOME) == {environment, installation}
    assert code_of(tmp_path / "linked" / "bin" / "python", HOME) == {tmp_path / "linked", installation}


def test_a_script_needs_its_directory_but_never_a_shared_one(tmp_path: Path) -> None:
    script = tmp_path / "python"
    assert code_of(script, HOME) == {script, tmp_path}
    assert code_of(Path("/tmp/python"), HOME) == {Path("/tmp/python")}
    assert code_of(HOME / "python", HOME) == {HOME / "python"}


def test_the_home_directory_is_never_code(installation: Path) -> None:
    found = code_of(installation / "bin" / "python3.12", home=installation)
    assert found == {installation / "bin", installation / "lib"}
    assert code_of(Path("/bin/python"), HOME) == {Path("/bin"), Path("/lib")}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("python")
    assert code_of(tmp_path / "python", HOME) == {tmp_path / "python", tmp_path}
