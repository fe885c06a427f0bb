"""Every hostile string in every text of a request: fields of bodies, and each parameter of each route."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any
from urllib.parse import quote

import httpx2

from tests.hostile.target import Answer, Attack, Target, of
from tests.support.hostile import wrapped_strings

Json = dict[str, Any]
INJECTED = ("\r\nX-Injected: 1", "%0d%0aX-Injected:%201", '\n{"event": "forged"}')


def attacks(target: Target, share: int) -> Iterator[Attack]:
    """Yield one attack per string and place; `share`: only every so many of them."""
    texts = [*wrapped_strings(str(target.canary)), *INJECTED]
    assert len(texts) >= 500
    places = [*_fields(target), *_parameters(target)]
    for number, (text, place) in enumerate((text, place) for text in texts for place in places):
        if number % share == 0:
            yield Attack(f"{place[0]} = {text[:40]!r}", partial(place[1], text))


# -- bodies ----------------------------------------------------------------------------------------


def _fields(target: Target) -> Iterator[tuple[str, Any]]:
    urls = cycle(("/v1/jobs:plan", "/v1/jobs"))
    for name in _bodies(target.body, ""):
        yield f"field {name}", partial(_post, next(urls), name)
    for name in ("path", "cluster", "hf_model_path"):
        yield f"inspected {name}", lambda text, to, name=name: _inspect(to, {name: text})
    for name in ("name", "project", "role", "expires_at"):
        yield f"key {name}", lambda text, to, name=name: _send(to, "/v1/keys", {**KEY, name: text})


KEY = {"name": "anna", "role": "viewer", "project": "default"}


def _bodies(usual: Json, text: str) -> dict[str, Json]:
    """Return bodies of a job with the text in one place each."""
    inputs = usual["inputs"]
    return {
        "name": {"name": text},
        "config": {"config": text},
        "config key": {"config": {text: text}},
        "config value": {"config": {"hf_model_path": text}},
        "cluster": {"cluster": text},
        "override": {"overrides": [*usual["overrides"], text]},
        "override value": {"overrides": [*usual["overrides"], f"logger.wandb_project={text}"]},
        "override object": {"overrides": {"hf_model_path": text}},
        "override key": {"overrides": {text: 1}},
        "argument": {"args": ["--hf-model-path", text]},
        "flag": {"args": [text, "1"]},
        "packed_parquet": {"inputs": {"packed_parquet": text}},
        "checkpoint": {"inputs": {**inputs, "checkpoint_megatron": text}},
        "secret": {"secrets": {text: "team-hf"}},
        "secret name": {"secrets": {"HF_TOKEN": text}},
        "label": {"labels": {"note": text}},
        "label key": {"labels": {text: "x"}},
        "plan_hash": {"plan_hash": text},
        "nodes": {"resources": {"nodes": text}},
    }


def _post(url: str, name: str, text: str, to: Target) -> Answer:
    return _send(to, url, {**to.body, **_bodies(to.body, text)[name]})


def _inspect(to: Target, change: Json) -> Answer:
    return _send(to, "/v1/datasets:inspect", {"path": str(to.inputs / "packed"), **change})


def _send(to: Target, url: str, body: Json) -> Answer:
    return of(to.client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"}))


# -- parameters ------------------------------------------------------------------------------------


def _parameters(target: Target) -> Iterator[tuple[str, Any]]:
    """Yield each parameter of each route of the OpenAPI document, so that none is forgotten."""
    document = target.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for one in operation.get("parameters", []):
                where = f"{method} {path} {one['in']} {one['name']}"
                yield where, partial(_request, method, path, one["in"], one["name"])
    for name in ("X-Request-ID", "Authorization", "Accept", "X-Forwarded-For", "Content-Type", "Host"):
        yield f"header {name}", partial(_request, "get", "/v1/jobs", "header", name)


def _request(method: str, path: str, kind: str, name: str, text: str, to: Target) -> Answer:
    usual = {"job_id": to.job, "iteration": "10", "path": "x", "name": "nano3", "key_id": "key-0"}
    if kind == "path":
        usual[name] = quote(text, safe="/")
    url = path
    for key, value in usual.items():
        url = url.replace(f"{{{key}}}", value)
    headers = {name: _latin(text)} if kind == "header" else {}
    params = {name: text} if kind == "query" else {}
    content = b"{}" if method == "post" else None
    try:
        return of(to.client.request(method, url, params=params, headers=headers, content=content))
    except (httpx2.HTTPError, httpx2.InvalidURL):  # the client's own library does not send it
        return Answer(0)


def _latin(text: str) -> bytes:
    """Return a header as bytes that an HTTP library sends: line breaks are what framings.py tries."""
    return text.encode("utf-8", "replace").replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\0", b" ")
