"""Bodies that cost a parser more than they have bytes."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.hostile.target import Answer, Attack, Target, of

URLS = ("/v1/jobs", "/v1/jobs:plan", "/v1/datasets:inspect", "/v1/keys", "/v1/jobs/JOB/retry")
TEXTS = {
    "flow lists": "[" * 30_000,
    "flow objects": "{a: " * 3000,
    "closed in quotes": "[" + '"' + "]" * 40 + '",' + "[" * 1000,
    "block lists": "- " * 8000,
    "keys": "? " * 8000,
    "tags": "!!seq [" * 2000,
    "aliases": "&a [" + "*a," * 5000 + "]",
    "laughs": "{a: &a [x], b: &b [*a,*a], c: &c [*b,*b], d: [*c,*c]}",
    "sexagesimal": "1" + ":59" * 90_000,
    "digits": "9" * 300_000,
    "exponent": "1e999999999",
    "merge keys": "{<<: {<<: {a: 1}}}",
    "interpolations": "${a" * 5000 + "}" * 5000,
    "anchors": "&a " * 5000,
}


def attacks(target: Target, share: int) -> Iterator[Attack]:
    """Yield each bomb in each place where it can lie."""
    bodies = [*_raw(), *_bodies(target.body)]
    for number, (name, body) in enumerate(bodies):
        for url in URLS:
            if number % share == 0:
                yield Attack(f"{name} to {url}", partial(_send, url, body))


def _raw() -> Iterator[tuple[str, bytes]]:
    many = 100_000
    yield "unknown fields", json.dumps({f"f{i}": i for i in range(many // 2)}).encode()
    yield "few unknown fields", json.dumps({f"field{i}": i for i in range(4000)}).encode()
    yield "equal fields", b"{" + b'"a":1,' * many + b'"a":1}'
    yield "nested lists", b"[" * 500_000
    yield "nested objects", b'{"a":' * 150_000
    yield "nested in config", b'{"name":"t","config":' + b'{"a":' * 900 + b"1" + b"}" * 901
    yield "a long number", b'{"name":' + b"9" * 900_000 + b"}"
    yield "a large exponent", b'{"name":1e999999999}'
    yield "not a number", b'{"name":NaN,"config":Infinity}'
    yield "surrogates", b'{"name":"\\ud800","labels":{"\\udfff":"\\ud800"}}'
    yield "escapes", b'{"name":"' + b"\\u0000" * 150_000 + b'"}'
    yield "open quote", b'{"name":"' + b'\\"' * 450_000
    yield "utf-16", json.dumps({"name": "t"}).encode("utf-16")
    yield "bad utf-8", b'{"name":"\xff\xfe"}'


def _bodies(usual: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    changes: dict[str, dict[str, Any]] = {}
    for name, text in TEXTS.items():
        changes |= {
            f"{name} in an override": {"overrides": [f"seq_length={text}"]},
            f"{name} in an argument": {"args": ["--seq-length", text]},
            f"{name} in a config": {"config": {"seq_length": text}},
            f"{name} as a name": {"name": text},
        }
    changes |= {
        "overrides": {"overrides": ["a=1"] * 6500},
        "override keys": {"overrides": {f"train.a{i}": 1 for i in range(6500)}},
        "dots": {"overrides": [f"a{'.a' * 24_000}=1"]},
        "config keys": {"config": {f"k{i}": 1 for i in range(27_000)}},
        "nearly known keys": {"config": {f"seq_lengt{i}": 1 for i in range(7000)}},
        "nearly known overrides": {"overrides": {f"train.train_iter{i}": 1 for i in range(250)}},
        "arguments": {"args": ["--seq-length", "1"] * 5000},
        "labels": {"labels": {f"l{i}": "" for i in range(5000)}},
        "secrets": {"secrets": {f"S{i}": "x" for i in range(5000)}},
    }
    for name, change in changes.items():
        yield name, json.dumps({**usual, **change}).encode()


def _send(url: str, body: bytes, to: Target) -> Answer:
    headers = {"Content-Type": "application/json"}
    return of(to.client.post(url.replace("JOB", to.job), content=body, headers=headers))
