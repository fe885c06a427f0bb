"""Hostile files of every kind that the service reads, links out of the roots, and swaps."""

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.hostile.target import Answer, Attack, Target, of

MIB = 1 << 20
# Names in a directory of packed data, of a model, and of a checkpoint.
PLACES = {
    "packed": ("splits/train/a.parquet", "metadata.json", "splits/train/metadata.json", "blend.json"),
    "model": ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
              "model.safetensors", "generation_config.json", "chat_template.jinja"),
    "checkpoint": (".metadata", "run_config.yaml", "common.pt", "__0_0.distcp", "train_state.pt",
                   "metadata.json", "latest_checkpointed_iteration.txt", "config.json"),
}  # fmt: skip
NUMBERS = ("1e400", "NaN", "-1", "9" * 5000, "1.5", "null", "true", '"8"', "[1]", "{}")


def contents() -> dict[str, bytes]:
    """Return hostile contents by name. A pickle that is loaded creates no file, but takes memory."""
    return {
        "nothing": b"",
        "noise": bytes(range(256)) * 64,
        "large": b"[" + b"1," * (15 * MIB) + b"1]",
        "nested": b"[" * 500_000,
        "nested objects": b'{"a":' * 100_000,
        "surrogates": b'{"model_type":"\\ud800","architectures":["\\u0000"]}',
        "list": b"[]",
        "numbers": json.dumps({"num_hidden_layers": "x", "hidden_size": [], "vocab_size": {}}).encode(),
        **{f"number {text[:6]}": b'{"num_hidden_layers":%s,"hidden_size":%s}' % ((text.encode(),) * 2)
           for text in NUMBERS},
        "memo index": b"\x80\x04N" + b"r" + struct.pack("<I", 2**31 - 1) + b".",
        "memo text": b"Np2000000000\n.",
        "deep pickle": b"(" * 500_000 + b".",
        "pickle": pickle.dumps({"a": [1, 2, 3]}),
        "opening": b"cos\nsystem\n(S'true'\ntR.",
        "parquet": b"PAR1" + b"\x15\x04" * 100 + struct.pack("<I", 200) + b"PAR1",
        "parquet footer": b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "zip": b"PK\x03\x04" + bytes(200),
        "safetensors": struct.pack("<Q", 2**62) + b"{}",
        "yaml": b"a: &a [x,x]\nb: &b [*a,*a]\n" * 2000,
        "yaml object": b"!!python/object/apply:os.system ['true']\n_target_: torch.os.system\n",
        "template": b"{% for i in range(99999999) %}{{ i }}{% endfor %}",
    }  # fmt: skip


def attacks(target: Target, share: int) -> Iterator[Attack]:
    """Yield each content under each name, then what is no file, then links that lead out of the roots."""
    made: list[tuple[str, Callable[[Path], None]]] = [
        *((name, partial(_write, content)) for name, content in contents().items()),
        ("a pipe", os.mkfifo),
        ("a directory", Path.mkdir),
        ("a link to zeros", lambda path: path.symlink_to("/dev/zero")),
        ("a link out", lambda path: path.symlink_to(target.outside / "secret.txt")),
        ("a loop", lambda path: path.symlink_to(path)),
        ("a missing target", lambda path: path.symlink_to("/nowhere")),
    ]
    places = [(kind, name) for kind, names in PLACES.items() for name in names]
    pairs = [(what, place) for what in made for place in places]
    for number, ((what, make), (kind, name)) in enumerate(pairs):
        if number % share == 0:
            yield Attack(f"{what} as {kind}/{name}", partial(_plan, number, kind, name, make))


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _plan(number: int, kind: str, name: str, make: Callable[[Path], None], to: Target) -> Answer:
    """Plan a job with the file, and inspect it; return the worse answer."""
    directory = to.inputs / f"{kind}-{number}"
    path = directory / name
    path.parent.mkdir(parents=True)
    make(path)
    body = {
        "packed": {"inputs": {"packed_parquet": str(directory)}},
        "model": {"overrides": [f"hf_model_path={directory}"]},
        "checkpoint": {"inputs": {**to.body["inputs"], "checkpoint_megatron": str(directory)}},
    }[kind]
    answers = [of(to.client.post("/v1/jobs:plan", json={**to.body, **body}))]
    if kind != "checkpoint":
        wanted = {"path": str(directory)} if kind == "packed" else {"hf_model_path": str(directory)}
        inspected = {"path": str(to.inputs / "packed"), **wanted}
        answers.append(of(to.client.post("/v1/datasets:inspect", json=inspected)))
    return max(answers, key=lambda answer: answer.status)
