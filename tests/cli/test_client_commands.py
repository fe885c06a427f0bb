"""Every command of `sft` on a real service."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.sft import Sft
from tests.support.stand_in.control import override, with_mode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def sft(service: Service, tmp_path: Path) -> Sft:
    key = (service.data_dir / "admin.key").read_text().strip()
    return Sft(str(service.client.base_url), key, cwd=tmp_path)


@pytest.fixture
def file(body: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(body))
    return str(path)


@pytest.fixture
def job(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Return a job that has succeeded."""
    return service.wait_for(service.submit(body)["id"])


def holding(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    job = service.submit(with_mode(body, "hold"))
    return service.wait_for(job["id"], "RUNNING")


# -- submitting ------------------------------------------------------------------------------------


def test_a_file_and_command_line_options_become_a_job(sft: Sft, file: str) -> None:
    job = sft.json(
        "submit", file, "--name", "mine", "--cluster", "narrow", "--label", "team=docs", "--label", "a=b=c",
        "train.global_batch_size=4", "peft=lora",
    )  # fmt: skip
    assert (job["name"], job["backend"]["cluster"]) == ("mine", "narrow")
    assert job["labels"] == {"team": "docs", "a": "b=c"}
    assert job["config"]["train"]["global_batch_size"] == 4
    assert job["config"]["peft"] == "lora"
    assert job["config"]["hf_model_path"].endswith("/model")  # the file's own overrides are kept


def test_a_yaml_body_from_standard_input_with_overrides_as_an_object(sft: Sft, body: dict[str, Any]) -> None:
    model = body["overrides"][0].partition("=")[2]
    text = yaml.safe_dump(
        {**body, "overrides": {"hf_model_path": model, "optimizer.lr": 1e-05, "peft": None}}
    )
    done = sft("submit", "-", "train.train_iters=3", "--json", given=text)
    config = json.loads(done.stdout)["config"]
    assert (config["hf_model_path"], config["optimizer"]["lr"]) == (model, 1e-05)
    assert config["train"]["train_iters"] == 3


def test_no_file_is_needed(sft: Sft, body: dict[str, Any]) -> None:
    data = f"dataset.nano3_packed_sft_dir={body['inputs']['packed_parquet']}"
    job = sft.json("submit", "-c", "cpu-tiny", "--name", "bare", body["overrides"][0], data)
    assert job["name"] == "bare"


def test_a_complete_config_from_a_file(sft: Sft, body: dict[str, Any], file: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("device: cpu\nseq_length: 512\n")
    planned = sft.json("plan", file, "-c", "config.yaml")
    assert (planned["preset"], planned["config"]["seq_length"]) == (None, 512)


def test_an_idempotency_key_creates_one_job_and_without_a_key_there_are_two(sft: Sft, file: str) -> None:
    same = {sft.json("submit", file, "--idempotency-key", "once")["id"] for _ in range(2)}
    assert len(same) == 1
    assert sft.json("submit", file)["id"] != sft.json("submit", file)["id"]


@pytest.mark.parametrize(("mode", "code", "state"), [("train", 0, "SUCCEEDED"), ("fail", 3, "FAILED")])
def test_submit_and_wait_exits_with_the_jobs_final_state(
    sft: Sft, file: str, mode: str, code: int, state: str
) -> None:
    done = sft("submit", file, override(mode), "--wait")
    assert done.returncode == code
    assert done.stdout.split()[1:] == [state]
    assert ("failure requested" in done.stderr) == (mode == "fail")
    assert sft.json("wait", done.stdout.split()[0], code=code)["state"] == state


def test_a_plan_shows_findings_and_cost(sft: Sft, file: str) -> None:
    fine = sft("plan", file)
    assert fine.returncode == 0
    assert "GPU-hours" in fine.stdout
    assert sft.json("plan", file)["ok"] is True
    rejected = sft("plan", file, "hf_model_path=/etc")
    assert rejected.returncode == 1
    assert "path_not_allowed" in json.dumps(sft.json("plan", file, "hf_model_path=/etc", code=1))
    assert "'/etc' does not lie under" in rejected.stdout
    assert "error" in rejected.stdout


def test_a_rejected_body_shows_field_and_reason(sft: Sft, file: str) -> None:
    done = sft("submit", file, "seq_len=512")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "seq_length" in done.stderr
    assert "/overrides" in done.stderr


# -- reading ---------------------------------------------------------------------------------------


def test_jobs_are_listed_for_people_and_for_scripts(sft: Sft, file: str) -> None:
    made = [sft.json("submit", file, "--label", "of=list", "--name", f"n{i}")["id"] for i in range(3)]
    page = sft.json("list", "--label", "of=list", "--limit", "2")
    assert [job["id"] for job in page["items"]] == made[:0:-1]
    assert page["next_cursor"] == made[1]
    table = sft("list", "--label", "of=list", "--owner", "admin", "--cluster", "local")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["ID", *made[::-1]]
    assert "\x1b" not in table.stdout
    assert sft.json("list", "--state", "lost") == {"items": [], "next_cursor": None}


def test_a_job_is_shown(sft: Sft, service: Service, job: dict[str, Any]) -> None:
    shown = sft("show", job["id"]).stdout
    for what in (job["id"], "SUCCEEDED", "4/4", "iteration 4"):
        assert what in shown
    assert sft.json("show", job["id"]) == service.job(job["id"])


def test_logs_are_printed_completely_or_as_tail(sft: Sft, service: Service, job: dict[str, Any]) -> None:
    complete = service.client.get(f"/v1/jobs/{job['id']}/logs").json()
    done = sft("logs", job["id"])
    assert done.stdout == complete["text"]
    assert "größe" in done.stdout
    assert sft("logs", job["id"], "--tail", "2").stdout.splitlines() == complete["text"].splitlines()[-2:]
    assert sft("logs", job["id"], "--rank", "0", "--attempt", "1").stdout == "rank 0 says hello\n"
    assert sft("logs", job["id"], "--rank", "7").returncode == 5
    assert sft.json("logs", job["id"]) == complete


def test_a_log_of_many_pages_is_printed_once(sft: Sft, service: Service, job: dict[str, Any]) -> None:
    [log] = (service.data_dir / "jobs" / job["id"]).rglob("logs/job.log")
    text = "".join(f"{number} äöü {'x' * 100}\n" for number in range(25_000))
    log.write_text(text)
    assert sft("logs", job["id"]).stdout == text


def test_events_and_metrics(sft: Sft, service: Service, job: dict[str, Any]) -> None:
    url = f"/v1/jobs/{job['id']}"
    assert sft.json("events", job["id"]) == service.client.get(f"{url}/events").json()
    assert "to=SUCCEEDED" in sft("events", job["id"]).stdout
    assert sft.json("metrics", job["id"], "--resolution", "2") == (
        service.client.get(f"{url}/metrics", params={"resolution": 2}).json()
    )
    shown = sft("metrics", job["id"]).stdout
    assert "loss             7 █▆▃▁ 4" in shown
    assert shown.splitlines()[-1].split()[:3] == ["4", "4", "4"]


def test_clusters_presets_and_whoami(sft: Sft, service: Service) -> None:
    for what in ("clusters", "presets", "whoami"):
        assert sft.json(what) == service.client.get(f"/v1/{what}").json()
    assert "narrow" in sft("clusters").stdout
    assert "cpu-tiny" in sft("presets").stdout
    assert sft("whoami").stdout.startswith("admin (admin) in default at http://127.0.0.1")


# -- changing --------------------------------------------------------------------------------------


def test_cancel_wait_and_retry(sft: Sft, service: Service, body: dict[str, Any]) -> None:
    job = holding(service, body)["id"]
    assert sft("cancel", job).stdout.split() == [job, "CANCELLING"]
    waited = sft("wait", job)
    assert (waited.returncode, waited.stdout.split()) == (4, [job, "CANCELLED"])
    late = sft("cancel", job)
    assert (late.returncode, "Allowed now: retry" in late.stderr) == (1, True)
    assert sft.json("retry", job)["attempt"] == 2
    service.wait_for(job, "RUNNING")
    sft("cancel", job)
    service.wait_for(job)


def test_a_failure_is_shown_with_its_evidence_and_retried_with_its_suggestion(
    sft: Sft, service: Service, body: dict[str, Any]
) -> None:
    job = service.submit(with_mode(body, "oom", resources={"gpus_per_node": 2}))["id"]
    waited = sft("wait", job)
    assert (waited.returncode, waited.stdout.split()) == (3, [job, "FAILED"])
    for text in (waited.stderr, sft("show", job).stdout):
        assert "Reduce train.global_batch_size, increase parallelism, or reduce seq_length." in text
        assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 32.00 GiB" in text
        assert "recipe.tensor_model_parallel_size: 1 -> 2" in text
        assert "would fail again" in text
    shown = sft("show", job).stdout
    more = next(line for line in shown.splitlines() if "sft logs" in line).partition("sft ")[2]
    assert "CUDA out of memory" in sft(*more.split()).stdout
    again = next(line for line in shown.splitlines() if "sft retry" in line).partition("sft ")[2]
    rejected = sft("retry", job, "seq_lenght=1")
    assert (rejected.returncode, "/overrides/0" in rejected.stderr) == (1, True)
    assert sft.json(*again.split(), "train.train_iters=7", "--time-limit", "9")["attempt"] == 2
    now = service.wait_for(job)
    assert (now["state"], now["config"]["train"]["train_iters"]) == ("SUCCEEDED", 7)
    assert now["config"]["recipe"]["tensor_model_parallel_size"] == 2
    assert now["resources"]["time_limit_minutes"] == 9
    assert "failure" not in sft("show", job).stdout


def test_the_exit_code_is_that_of_the_worst_final_state(
    sft: Sft, service: Service, body: dict[str, Any]
) -> None:
    fine = service.submit(body)["id"]
    bad = service.submit(with_mode(body, "fail"))["id"]
    done = sft("wait", fine, bad, fine, "--json")
    assert done.returncode == 3
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert {job["id"]: job["state"] for job in ended} == {fine: "SUCCEEDED", bad: "FAILED"}


def test_a_timeout_has_its_own_exit_code(sft: Sft, service: Service, body: dict[str, Any]) -> None:
    job = holding(service, body)["id"]
    done = sft("wait", job, "--timeout", "1")
    assert (done.returncode, done.stdout) == (8, "")
    service.client.post(f"/v1/jobs/{job}/cancel")
    service.wait_for(job)


def test_an_interrupt_is_quiet(sft: Sft, service: Service, body: dict[str, Any]) -> None:
    job = holding(service, body)["id"]
    waiting = sft.start("submit", "-", "--wait", "-c", "cpu-tiny", stdin=subprocess.PIPE)
    assert waiting.stdin is not None
    waiting.stdin.write(json.dumps(with_mode(body, "hold")))
    waiting.stdin.close()
    assert waiting.stderr is not None
    greeting = waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    assert waiting.stderr.read() == ""
    for stream in (waiting.stdout, waiting.stderr):
        assert stream is not None
        stream.close()
    for one in (job, greeting.split()[1].rstrip(".")):
        service.client.post(f"/v1/jobs/{one}/cancel")
        service.wait_for(one)


# -- following -------------------------------------------------------------------------------------


def test_a_log_is_followed_to_the_end_of_its_run(sft: Sft, service: Service, body: dict[str, Any]) -> None:
    job = holding(service, body)["id"]
    following = sft.start("logs", "-f", job)
    assert following.stdout is not None
    assert following.stdout.readline() == "größe: ééé\n"
    service.client.post(f"/v1/jobs/{job}/cancel")
    rest = following.stdout.read()
    assert (following.communicate(timeout=60), following.returncode) == (("", ""), 0)
    assert "größe: ééé\n" + rest == service.client.get(f"/v1/jobs/{job}/logs").json()["text"]
    tail = sft("logs", job, "-f", "--tail", "2").stdout
    assert tail.splitlines() == rest.splitlines()[-2:]
    service.wait_for(job)


def test_events_are_followed_to_the_end(sft: Sft, service: Service, job: dict[str, Any]) -> None:
    followed = [json.loads(line) for line in sft("events", "-f", job["id"], "--json").stdout.splitlines()]
    assert followed == service.client.get(f"/v1/jobs/{job['id']}/events").json()["items"]


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_created_used_and_revoked(sft: Sft, file: str, tmp_path: Path) -> None:
    made = sft("keys", "create", "anna", "--role", "viewer", "--project", "support")
    anna = Sft(sft.url, made.stdout.strip(), cwd=tmp_path)
    assert anna("whoami").stdout.startswith("anna (viewer) in support at ")
    assert anna("submit", file).returncode == 6
    assert anna("keys", "list").returncode == 6
    [key] = [key for key in sft.json("keys", "list")["items"] if key["name"] == "anna"]
    assert (key["role"], key["revoked_at"]) == ("viewer", None)
    assert key["id"] in sft("keys", "list").stdout
    assert sft.json("keys", "revoke", key["id"])["revoked_at"]
    assert sft("keys", "revoke", key["id"]).returncode == 0
    assert anna("whoami").returncode == 6
    assert sft("keys", "revoke", "none").returncode == 5
    assert sft("keys", "create", "bert", "--expires-at", "soon").returncode == 1
    assert len(sft.json("keys", "list", "--limit", "1")["items"]) == 1


def test_the_audit_log_has_what_happened(
    service: Service, sft: Sft, job: dict[str, Any], tmp_path: Path
) -> None:
    service.client.post(f"/v1/jobs/{job['id']}/pause")
    rejected, created = sft.json("audit", "--target", job["id"])["items"]
    assert (rejected["action"], rejected["outcome"]) == ("job.pause", "illegal_action")
    assert (rejected["address"], created["address"]) == ("127.0.0.1", "127.0.0.1")
    assert (created["action"], created["outcome"], created["actor"]) == ("job.create", "ok", "admin")
    [row] = [line for line in sft("audit", "--actor", "service").stdout.splitlines() if "key.create" in line]
    assert "admin" not in row.split()[:4]  # the first key was created by `sft serve`
    assert len(sft.json("audit", "--limit", "1")["items"]) == 1
    viewer = sft("keys", "create", "eve", "--role", "viewer").stdout.strip()
    assert Sft(sft.url, viewer, cwd=tmp_path)("audit").returncode == 6
    assert sft("audit", "--since", "soon").returncode == 1


def test_limits_are_set_shown_and_reset(sft: Sft) -> None:
    done = sft("limits", "set", "support", "--live-jobs", "8", "--gpus", "64")
    assert "8 (set by an admin)" in done.stdout
    assert "1000 (default)" in done.stdout
    assert sft.json("limits", "list")["projects"]["support"] == {
        "live_jobs": 8, "waiting_jobs": None, "gpus": 64,
    }  # fmt: skip
    assert "support" in sft("limits", "list").stdout
    secret = sft("keys", "create", "anna", "--role", "viewer", "--project", "support").stdout.strip()
    anna = Sft(sft.url, secret, cwd=sft.cwd)
    assert anna.json("limits", "show")["limits"]["live_jobs"] == 8
    assert anna("limits", "show", "default").returncode == 5
    assert anna("limits", "list").returncode == 6
    assert sft.json("limits", "reset", "support")["own"] == {
        "live_jobs": None, "waiting_jobs": None, "gpus": None,
    }  # fmt: skip
    assert sft("limits", "set", "Not A Project").returncode == 1


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_is_listed_and_downloaded_once(
    sft: Sft, service: Service, job: dict[str, Any], tmp_path: Path
) -> None:
    listed = sft.json("checkpoints", "ls", job["id"])
    assert [one["iteration"] for one in listed["items"]] == [4]
    shown = f"{listed['items'][0]['bytes'] / 1024:.1f} KiB"
    assert shown in sft("checkpoints", "ls", job["id"]).stdout

    done = sft("checkpoints", "get", job["id"], "4")
    assert done.stdout.strip() == f"{job['id']}/iter_0000004"
    source = service.data_dir / "jobs" / job["id"] / "checkpoints" / "iter_0000004"
    target = tmp_path / job["id"] / "iter_0000004"
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    inodes = {path.name: path.stat().st_ino for path in target.iterdir()}
    os.truncate(target / "__0_0.distcp", 5)
    assert sft("checkpoints", "get", job["id"], "4").returncode == 0
    assert (target / "__0_0.distcp").read_bytes() == (source / "__0_0.distcp").read_bytes()
    changed = {path.name for path in target.iterdir() if path.stat().st_ino != inodes[path.name]}
    assert changed == {"__0_0.distcp"}
    assert sft("checkpoints", "get", job["id"], "5").returncode == 5


def test_a_checkpoint_is_exported(sft: Sft, service: Service, job: dict[str, Any], tmp_path: Path) -> None:
    made = sft.json(
        "checkpoints", "export", job["id"], "4", "--name", "mine", "--label", "a=b", "--time-limit", "9"
    )
    assert (made["name"], made["labels"], made["export_of"]) == (
        "mine",
        {"a": "b"},
        {"job": job["id"], "iteration": 4},
    )
    assert made["resources"]["time_limit_minutes"] == 9
    one = ["checkpoints", "export", job["id"], "4", "--idempotency-key", job["id"]]
    done = sft(*one, "--wait")
    assert done.returncode == 0
    export = sft(*one).stdout.strip()
    assert "huggingface" in sft("checkpoints", "ls", export).stdout
    assert sft("checkpoints", "get", export, "4", "-o", "model").returncode == 0
    assert (tmp_path / "model/config.json").exists()
    assert sft("checkpoints", "export", export, "4").returncode == 1
    assert sft("checkpoints", "export", job["id"], "5").returncode == 5


# -- key and service -------------------------------------------------------------------------------


def test_a_key_is_read_from_a_file_a_variable_or_the_data_directory(
    sft: Sft, service: Service, tmp_path: Path
) -> None:
    keyless = Sft(sft.url, None, cwd=tmp_path)
    none = keyless("whoami")
    assert (none.returncode, "SFT_API_KEY" in none.stderr) == (6, True)
    path = str(service.data_dir / "admin.key")
    assert keyless("--key-file", path, "whoami").returncode == 0
    for variables in ({"SFT_API_KEY_FILE": path}, {"SFT_DATA_DIR": str(service.data_dir)}):
        assert Sft(sft.url, None, tmp_path, variables)("whoami").returncode == 0
    wrong = Sft(sft.url, "sft_wrong", cwd=tmp_path)("list")
    assert (wrong.returncode, wrong.stdout) == (6, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "job-none"], ["logs", "job-none"], ["logs", "-f", "job-none"], ["events", "job-none"],
        ["metrics", "job-none"], ["cancel", "job-none"], ["retry", "job-none"], ["wait", "job-none"],
        ["checkpoints", "ls", "job-none"], ["checkpoints", "get", "job-none", "1"], ["show", "../../healthz"],
    ],
)  # fmt: skip
def test_an_unknown_job(sft: Sft, arguments: list[str]) -> None:
    done = sft(*arguments)
    assert (done.returncode, done.stdout) == (5, "")


def test_a_command_waits_for_a_restarting_service(data_dir: Path, stand_in: Path, tmp_path: Path) -> None:
    settings = {"SFT_TRAINER_PYTHON": str(stand_in), "SFT_POLL_INTERVAL_SECONDS": "0.2"}
    with Service(data_dir, **settings) as own:
        job = holding(own, make_inputs(data_dir))["id"]
        sft = Sft(str(own.client.base_url), None, tmp_path, {"SFT_DATA_DIR": str(data_dir)})
        waiting = sft.start("wait", job, "--timeout", "120")
        port = own.client.base_url.port or 0
        # The command waits: the service has authenticated its key.
        wait_until(lambda: _connections(waiting.pid, port))
        own.stop()
        assert waiting.stderr is not None
        assert "Trying again" in waiting.stderr.readline()
        with Service(data_dir, port=port, **settings) as again:
            again.client.post(f"/v1/jobs/{job}/cancel")
            assert waiting.wait(90) == 4
    for stream in (waiting.stdout, waiting.stderr):
        assert stream is not None
        stream.close()


def _connections(pid: int, port: int) -> bool:
    return any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections())
