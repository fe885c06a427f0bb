"""Checkpoints and models with one hostile file of each kind. Nothing in them is run."""

import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.torch_files import (
    BACKEND,
    RUN_CONFIG,
    Calls,
    archive,
    index,
    legacy,
    loaded_from_bytes,
    plain,
)
from trainer.checkpoint_safety import check
from trainer.checkpoint_safety.check import threats

EXTRA = "decoder.layers.mlp.linear_fc1._extra_state/shard_0_2"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A path that no test may create."""
    return tmp_path / "canary"


@pytest.fixture
def hostile(canary: Path) -> Calls:
    return Calls(os.system, f"touch {canary}")


@pytest.fixture
def iteration(tmp_path: Path) -> Path:
    """A checkpoint of one iteration with two objects, as Bridge saves it."""
    path = tmp_path / "checkpoints/iter_0000002"
    path.mkdir(parents=True)
    write_objects(path, {"common_state/shard_0_1": plain([{}]), EXTRA: plain([None])})
    for name, content in {"metadata.json": BACKEND, "run_config.yaml": RUN_CONFIG}.items():
        (path / name).write_bytes(content)
    for file in (path / "train_state.pt", path.parent / "latest_train_state.pt"):
        file.write_bytes(plain({"step": 2}))
    (path.parent / "latest_checkpointed_iteration.txt").write_text("2")
    return path


def write_objects(path: Path, objects: dict[str, bytes]) -> None:
    """Write a .distcp file with a tensor and these objects, and the index."""
    content, places = b"\x93tensor", {}
    for key, data in objects.items():
        places[key] = ("__0_0.distcp", len(content), len(data))
        content += data
    (path / "__0_0.distcp").write_bytes(content)
    (path / ".metadata").write_bytes(index({"weight": ("__0_0.distcp", 0, 7)}, places))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    contents = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"", "tokenizer.json": b"{}"}
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path


def found(path: Path) -> list[str]:
    return [f"{threat.file} {threat.reason}" for threat in threats(path)]


def only(path: Path) -> str:
    [threat] = found(path)
    return threat


def test_a_checkpoint_of_bridge_is_accepted(iteration: Path) -> None:
    assert found(iteration) == []
    assert found(iteration.parent) == []


# -- pickles in a checkpoint -----------------------------------------------------------------------

ALLOWED = "which is not in the list of allowed"


def test_a_hostile_index(iteration: Path, hostile: Calls, canary: Path) -> None:
    (iteration / ".metadata").write_bytes(pickle.dumps(hostile))
    assert only(iteration.parent) == f"'iter_0000002/.metadata' names 'posix.system', {ALLOWED} classes"
    assert not canary.exists()


def test_an_index_of_one_rank(iteration: Path, hostile: Calls) -> None:
    """torch reads it if ranks save without coordination."""
    (iteration / "__3.metadata").write_bytes(pickle.dumps(hostile))
    assert "posix.system" in only(iteration)


def test_a_hostile_object(iteration: Path, hostile: Calls) -> None:
    objects = {"common_state/shard_0_1": plain([{}]), "rng_state/shard_0_1": plain([hostile])}
    write_objects(iteration, objects)
    threat = only(iteration)
    assert "'rng_state/shard_0_1' in '__0_0.distcp'" in threat
    assert "posix.system" in threat


@pytest.mark.parametrize("key", [EXTRA, "x._extra_state"])
def test_a_pickle_in_the_extra_state(iteration: Path, hostile: Calls, key: str) -> None:
    state = archive(pickle.dumps([], 2), {"0": pickle.dumps({"recipe": hostile})})
    write_objects(iteration, {key: state})
    assert "posix.system" in only(iteration)
    write_objects(iteration, {"rng_state": state})  # nothing unpickles the bytes of other tensors
    assert found(iteration) == []


def test_tensors_in_the_extra_state(iteration: Path, hostile: Calls) -> None:
    """Those of FP8 with delayed scaling."""

    def state(data: bytes) -> None:
        write_objects(iteration, {EXTRA: archive(GOOD, {"0": loaded_from_bytes(data)})})

    state(legacy(GOOD))
    assert found(iteration) == []
    for data in (legacy(pickle.dumps(hostile, 2)), pickle.dumps(hostile, 2), pickle.dumps(hostile, 0)):
        state(data)
        assert found(iteration)
    state(plain(hostile))
    assert found(iteration)
    write_objects(iteration, {"rng_state": archive(loaded_from_bytes(legacy(GOOD)))})
    assert "torch.storage._load_from_bytes" in only(iteration)


def test_an_extra_state_that_is_called_a_tensor(iteration: Path, hostile: Calls) -> None:
    state = archive(pickle.dumps([], 2), {"0": pickle.dumps(hostile)})
    (iteration / "__0_0.distcp").write_bytes(state)
    (iteration / ".metadata").write_bytes(index({EXTRA: ("__0_0.distcp", 0, len(state))}))
    assert "posix.system" in only(iteration)


def test_an_object_beside_its_place(iteration: Path, hostile: Calls) -> None:
    """What the index refers to is checked, whatever else the file has."""
    good, bad = plain([{}]), plain([hostile])
    (iteration / "other.bin").write_bytes(good)
    (iteration / "__0_0.distcp").write_bytes(good + bad)
    for place in (("__0_0.distcp", len(good), len(bad)), ("__0_0.distcp", 0, len(good + bad))):
        (iteration / ".metadata").write_bytes(index({}, {"common_state": place}))
        assert found(iteration)
    (iteration / ".metadata").write_bytes(index({}, {"common_state": ("other.bin", 0, len(good))}))
    assert found(iteration) == []


@pytest.mark.parametrize(
    "name", ["common.pt", "train_state.pt", "../latest_train_state.pt", "rng.pth", "x.bin", "a.ckpt"]
)
@pytest.mark.parametrize("form", [plain, pickle.dumps])
def test_a_hostile_file_of_torch(
    iteration: Path, hostile: Calls, name: str, form: Callable[[object], bytes]
) -> None:
    (iteration / name).write_bytes(form(hostile))
    assert "posix.system" in only(iteration.parent)


@pytest.mark.parametrize(
    "name", ["unknown", "notes.txt", "data.pkl", "data.pickle", "x.npy", "tokenizer/vocab.model"]
)
@pytest.mark.parametrize("form", [plain, pickle.dumps])
def test_a_pickle_with_any_name(
    iteration: Path, hostile: Calls, name: str, form: Callable[[object], bytes]
) -> None:
    (iteration / name).parent.mkdir(exist_ok=True)
    (iteration / name).write_bytes(form(hostile))
    assert "posix.system" in only(iteration)


def test_a_checkpoint_inside(iteration: Path, hostile: Calls) -> None:
    """ModelOpt's state is a distributed checkpoint of its own."""
    shutil.copytree(iteration, iteration / "modelopt_state")
    assert found(iteration) == []
    write_objects(iteration / "modelopt_state", {"common_state/shard_0_1": plain([hostile])})
    assert "posix.system" in only(iteration.parent)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ""])
def test_an_index_that_leads_out(iteration: Path, name: str) -> None:
    for places in (index({"a": (name, 0, 1)}), index({}, {"a": (name, 0, 1)})):
        (iteration / ".metadata").write_bytes(places)
        assert "no file of the checkpoint" in only(iteration)


def test_compressed_pieces(iteration: Path) -> None:
    """torch would decompress them before it unpickles them."""
    data = (iteration / ".metadata").read_bytes()
    more = data.replace(b"\x8c\x06offset", b"\x8c\x14transform_descriptors", 1)
    assert more != data
    (iteration / ".metadata").write_bytes(more)
    assert found(iteration)


@pytest.mark.parametrize("content", [b'{"sharded_backend": "zarr"}', b"{}", b"[]", b"[" * 50_000, b"\xff"])
def test_another_format(iteration: Path, content: bytes) -> None:
    (iteration / "metadata.json").write_bytes(content)
    assert "metadata.json" in only(iteration)


# -- archives --------------------------------------------------------------------------------------


def rezipped(change: Callable[[zipfile.ZipFile], None], **options: int) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        change(file)
    return buffer.getvalue()


GOOD, EVIL = pickle.dumps({}, 2), pickle.dumps(Calls(os.system, "false"), 2)


def _members(*members: tuple[str, bytes]) -> Callable[[zipfile.ZipFile], None]:
    return lambda file: [file.writestr(name, data) for name, data in members] and None


ARCHIVES = {
    "truncated": plain({})[:-10],
    "trailing data": plain({}) + b"x",
    "trailing archive": plain({}) + plain(Calls(os.system, "false")),
    "data before": b"x" + plain({}),
    "comment": plain({})[:-2] + struct.pack("<H", 30) + plain({})[-30:],
    "compressed": rezipped(_members(("archive/data.pkl", GOOD)), compression=zipfile.ZIP_DEFLATED),
    "second pickle": rezipped(_members(("archive/data.pkl", GOOD), ("archive/DATA.PKL", EVIL))),
    "other root": rezipped(_members(("archive/data.pkl", GOOD), ("other/data.pkl", EVIL))),
    "no root": rezipped(_members(("data.pkl", GOOD))),
    "absolute": rezipped(_members(("archive/data.pkl", GOOD), ("/data.pkl", EVIL))),
    "torchscript": archive(GOOD, **{"constants.pkl": EVIL, "code/__torch__.py": b""}),
    "no pickle": rezipped(_members(("archive/version", b"3"))),
    "parent": rezipped(_members(("archive/data.pkl", GOOD), ("archive/../x", EVIL))),
    "legacy": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + EVIL,
    "tar": b"pickle\0" + b"\0" * 1000,
    "empty": b"",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_torch_does_not_write(iteration: Path, name: str) -> None:
    (iteration / "train_state.pt").write_bytes(ARCHIVES[name])
    assert "train_state.pt" in only(iteration)
    write_objects(iteration, {"common_state": ARCHIVES[name]})
    assert len(found(iteration)) == 2


def test_two_members_of_one_name(iteration: Path) -> None:
    """Python's zipfile reads the last one, miniz in torch the first."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rezipped(_members(("archive/data.pkl", EVIL), ("archive/data.pkl", GOOD)))
    (iteration / "train_state.pt").write_bytes(twice)
    assert "train_state.pt" in only(iteration)


@pytest.mark.parametrize("position", range(22))
def test_a_changed_end_of_the_directory(iteration: Path, position: int) -> None:
    data = bytearray(plain(Calls(os.system, "false")))
    data[-22 + position] ^= 1
    (iteration / "train_state.pt").write_bytes(data)
    assert "train_state.pt" in only(iteration)


# -- run_config.yaml -------------------------------------------------------------------------------

CONFIGS = {
    "os.system": "model: {_target_: os.system, _args_: [x]}",
    "allowed package": "model: {_target_: torch.os.getcwd}",
    "through torch": "model: {_target_: torch.os.system, _args_: [x]}",
    "through numpy": "model: {_target_: numpy.f2py.os.system}",
    "through megatron": "model: {_target_: megatron.bridge.training.config.os.system}",
    "through transformers": "model: {_target_: transformers.utils.os.system}",
    "torch.load": "model: {_target_: torch.load, f: x, weights_only: false}",
    "attribute of an allowed class": "model: {_target_: torch.float32.__class__}",
    "partial": "model: {_target_: functools.partial, _args_: [{_target_: torch.float32, _call_: false}]}",
    "not called": "model: {_target_: os.system, _call_: false}",
    "deep": "model: {a: [{b: {c: [{_target_: os.system}]}}]}",
    "in a list of pairs": "model: !!pairs [a: {_target_: os.system}]",
    "in an ordered map": "model: !!omap [a: {_target_: os.system}]",
    "merged": "a: &a {_target_: os.system}\nmodel: {<<: *a}",
    "alias": "a: &a os.system\nmodel: {_target_: *a}",
    "escaped key": 'model: {"_targ\\x65t_": os.system}',
    "space": "model: {_target_: 'torch.float32 '}",
    "look-alike": "model: {_target_: torch.flo\u0430t32}",
    "target in a list": "model: {_target_: [os.system]}",
    "no target": "model: {_target_: null}",
    "python tag": "model: !!python/object/apply:os.system [x]",
    "python name": "model: !!python/name:os.system ''",
    "builder": "model: {_builder_: megatron.bridge.models.hybrid.hybrid_builder.HybridModelBuilder}",
    "remote code": "tokenizer: {hf_tokenizer_kwargs: {trust_remote_code: true}}",
    "manager": "checkpoint: {custom_manager_class: os.system}",
    "generation": "model: {generation_config: {custom_generate: somebody/repository}}",
    "interpolation": "model: {a: '${oc.env:HOME}'}",
    "interpolated target": "a: os.system\nmodel: {_target_: '${a}'}",
    "interpolation in a set": "model: !!set {'${oc.env:HOME}'}",
    "alias bomb": "a: &a [1, 1]\n" + "".join(f"{n}: &a [{', '.join(8 * ['*a'])}]\n" for n in range(7)),
    "endless alias": "a: &a [*a]",
    "endless alias in a map": "a: &a {b: {c: *a}}",
    "deep nesting": "a: " + "[" * 100_000,
    "deep blocks": "\n".join(" " * level + "a:" for level in range(100)),
    "long number": "a: " + ":".join(["1"] * 50_000),
    "tagged number": f"a: !!int '{':'.join(['1'] * 50_000)}'",
    "many values": "a: [" + "1, " * 50_000 + "]",
    "large": "a: '" + "x" * 600_000 + "'",
    "two documents": "a: 1\n--- {_target_: os.system}",
    "not UTF-8": "a: \udcff",
    "UTF-16": "\ufeff",
    "syntax": "a: [",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_run_config(iteration: Path, name: str) -> None:
    data = CONFIGS[name].encode("utf-8", "surrogateescape") if name != "UTF-16" else "a: 1".encode("utf-16")
    (iteration / "run_config.yaml").write_bytes(data)
    assert "run_config.yaml" in only(iteration)


def test_the_message_names_the_target(iteration: Path) -> None:
    (iteration / "run_config.yaml").write_text(CONFIGS["through torch"])
    assert only(iteration) == f"'run_config.yaml' has the target 'torch.os.system', {ALLOWED} targets"


def test_what_a_run_config_may_have(iteration: Path) -> None:
    (iteration / "run_config.yaml").write_text("""
        model: &model {_target_: megatron.bridge.models.gpt_provider.GPTModelProvider, feature_dirs: null}
        again: *model
        peft: {_target_: megatron.bridge.peft.lora.LoRA, params_to_save: !!set {a: null, b: null}}
        init: {_target_: torch.nn.init.normal_, _partial_: true, _args_: [], std: 0.02}
        template: "{% for message in messages %}"
    """)
    assert found(iteration) == []


# -- Hugging Face models ---------------------------------------------------------------------------


def test_a_model_is_accepted(model: Path) -> None:
    assert found(model) == []


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "sub/rng_state.pth"]
)
@pytest.mark.parametrize("form", [plain, pickle.dumps])
def test_hostile_weights(model: Path, hostile: Calls, name: str, form: Callable[[object], bytes]) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(form(hostile))
    assert "posix.system" in only(model)
    (model / name).write_bytes(plain({"weight": 1}))
    assert found(model) == []


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"]
)
@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"auto_map": {"AutoTokenizer": ["evil.Slow", None]}},
        {"auto_map": {"AutoTokenizer": [None, "somebody/repository--evil.Fast"]}},
        {"auto_map": "evil.Config"},
        {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}},
        {"auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig", "AutoModel": "evil.Model"}},
        {"trust_remote_code": True},
        {"hf_trust_remote_code": True},
        {"custom_generate": "somebody/repository"},
        {"custom_pipelines": {"a": {"impl": "evil.Pipeline"}}},
    ],
    ids=lambda content: json.dumps(content)[:40],
)
def test_code_of_a_model(model: Path, name: str, content: object) -> None:
    (model / "evil.py").write_text("raise SystemExit")
    (model / name).write_text(json.dumps(content))
    assert name in only(model)


def test_the_classes_of_nemotron_are_known(model: Path) -> None:
    """transformers has these itself: the code beside config.json is not imported."""
    classes = {
        "AutoConfig": "configuration_nemotron_h.NemotronHConfig",
        "AutoModelForCausalLM": "modeling_nemotron_h.NemotronHForCausalLM",
    }
    (model / "config.json").write_text(json.dumps({"auto_map": classes}))
    (model / "modeling_nemotron_h.py").write_text("raise SystemExit")
    assert found(model) == []


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b'{"a": "' + b"x" * (16 << 20) + b'"}'])
def test_a_config_that_cannot_be_inspected(model: Path, content: bytes) -> None:
    (model / "config.json").write_bytes(content)
    assert "config.json" in only(model)


def test_a_huge_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ x }}")
    assert found(model) == []
    (model / "chat_template.jinja").write_bytes(b"x" * (2 << 20))
    assert "chat_template.jinja" in only(model)


# -- links and special files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "run_config.yaml", "notes.txt", "tokenizer"])
def test_a_link_that_leads_out(iteration: Path, tmp_path: Path, name: str) -> None:
    (iteration / name).unlink(missing_ok=True)
    outside = tmp_path / "outside"
    outside.mkdir() if name == "tokenizer" else outside.write_bytes(b"")
    (iteration / name).symlink_to(outside)
    assert any("a link that leads out" in threat for threat in found(iteration.parent))


def test_a_link_inside(iteration: Path, hostile: Calls) -> None:
    (iteration.parent / "iter_0000003").symlink_to("iter_0000002")
    assert found(iteration.parent) == []
    (iteration.parent / "plain.txt").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    (iteration / ".metadata").unlink()
    (iteration / ".metadata").symlink_to("../plain.txt")
    assert ".metadata" in only(iteration.parent)


def test_the_checkpoint_itself_may_be_a_link(iteration: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(iteration)
    assert found(tmp_path / "link") == []


def test_a_single_file(iteration: Path, hostile: Calls) -> None:
    assert found(iteration / "train_state.pt") == []
    (iteration / "train_state.pt").write_bytes(plain(hostile))
    assert "posix.system" in only(iteration / "train_state.pt")
    with pytest.raises(FileNotFoundError):
        threats(iteration / "missing")


def test_the_cache_of_the_hub(model: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    shutil.move(model, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert found(snapshot) == []


@pytest.mark.parametrize("name", [".metadata", "x.bin", "other"])
def test_a_pipe(iteration: Path, name: str) -> None:
    (iteration / name).unlink(missing_ok=True)
    os.mkfifo(iteration / name)
    assert "is not a regular file" in only(iteration)


def test_a_socket_and_links_to_nothing(iteration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(iteration)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    (iteration / "gone").symlink_to("nowhere")
    (iteration / "loop").symlink_to("loop")
    assert sorted(threat.file for threat in threats(iteration)) == ["'gone'", "'loop'", "'socket'"]


def test_names_of_files_are_shown_safely(iteration: Path) -> None:
    (iteration / "\x1b[2J\udcff.bin").write_bytes(b"x")
    assert only(iteration).isascii()
    assert only(iteration).isprintable()


def test_few_threats_are_reported(iteration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (iteration / f"{number}.bin").write_bytes(b"x")
    assert len(threats(iteration)) == 20
    monkeypatch.setattr(check, "MAX_FILES", 10)
    assert "more than 10 files" in found(iteration)[-1]


def test_a_deep_directory(iteration: Path) -> None:
    (iteration / "/".join("abcdefghij")).mkdir(parents=True)
    assert "is not a regular file" in only(iteration)


# -- an index that its reader and torch understand differently ----------------------------------------


@pytest.mark.parametrize("state", ["twice", "slots"])
def test_an_index_says_one_thing(iteration: Path, state: str) -> None:
    """torch would see what the second state says."""
    content = index({"w": ("__0_0.distcp", 0, 10)})
    first = content.index(b"relative_path")
    begin = content.rindex(b"}", 0, first)
    end = content.index(b"ub", first) + 2
    place = content[begin:end]
    other = place if state == "twice" else b"N" + place[:-1] + b"\x86b"
    (iteration / ".metadata").write_bytes(content[:end] + other + content[end:])
    assert threats(iteration)


def test_an_array_is_not_made_of_any_memory(iteration: Path) -> None:
    made = b"\x80\x02cnumpy\nndarray\nK\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAA\x87R."
    (iteration / "train_state.pt").write_bytes(archive(made))
    assert "numpy.ndarray" in only(iteration)
