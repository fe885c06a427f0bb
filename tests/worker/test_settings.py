"""Settings come from the environment; a wrong one is named."""

from pathlib import Path

import pytest

from worker.errors import Misconfigured
from worker.settings import Settings, get_settings


def test_every_knob_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_usual_names_of_urls_do_as_well(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgresql+psycopg://db/a")
    environment.setenv("REDIS_URL", "redis://broker/1")
    assert (get_settings().sql_url, get_settings().broker_url) == (
        "postgresql+psycopg://db/a",
        "redis://broker/1",
    )
    get_settings.cache_clear()
    environment.setenv("SFT_DATABASE_URL", "postgresql+psycopg://db/b")
    assert get_settings().sql_url == "postgresql+psycopg://db/b"


def test_paths_are_absolute_and_links_stay_links(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.chdir(tmp_path)
    environment.setenv("SFT_DATA_DIR", "here")
    (tmp_path / "python").symlink_to("/usr/bin/env")
    environment.setenv("SFT_TRAINER_PYTHON", str(tmp_path / "python"))
    assert get_settings().data_dir == tmp_path / "here"
    assert get_settings().trainer_python == tmp_path / "python"


def test_wrong_settings_are_named_all_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_WORKER_THREADS", "many")
    environment.setenv("SFT_POLL_INTERVAL_SECONDS", "soon")
    with pytest.raises(Misconfigured) as caught:
        get_settings()
    assert "SFT_WORKER_THREADS" in str(caught.value)
    assert "SFT_POLL_INTERVAL_SECONDS" in str(caught.value)


@pytest.mark.parametrize("rate", ["many", "0/minute", "5/fortnight", "10/second;5/minute", ""])
def test_a_wrong_rate_is_named(environment: pytest.MonkeyPatch, rate: str) -> None:
    environment.setenv("SFT_RATE_LIMIT_WRITES", rate)
    with pytest.raises(Misconfigured) as caught:
        get_settings()
    assert "SFT_RATE_LIMIT_WRITES" in str(caught.value)
    assert "write it as 120/minute, or off" in str(caught.value)


@pytest.mark.parametrize("proxies", ["localhost", "10.0.0.1/8", "10.0.0.1,", "*,10.0.0.1"])
def test_a_wrong_proxy_is_named(environment: pytest.MonkeyPatch, proxies: str) -> None:
    environment.setenv("FORWARDED_ALLOW_IPS", proxies)
    with pytest.raises(Misconfigured, match="FORWARDED_ALLOW_IPS"):
        get_settings()


def test_without_a_broker_it_says_how_to_get_one(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured) as caught:
        _ = get_settings().broker_url
    assert "SFT_REDIS_URL" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["SFT_MAX_EVENTS_PER_ATTEMPT", "SFT_MAX_EVENT_BYTES_PER_ATTEMPT"])
def test_limits_of_events_leave_room_for_a_run(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "999")
    with pytest.raises(Misconfigured, match=name):
        get_settings()
