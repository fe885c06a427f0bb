"""Options of `python -m trainer.pack` that make no sense: one line says what is wrong."""

import sys
from pathlib import Path

import pytest

from trainer.pack import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pack-size", "3x"], "trainer.pack: pack_size: .*valid integer"),
        (["--valid-share", "1.5"], "trainer.pack: split.train: .*greater than 0"),
        (["--algorithm", "best_fit"], "trainer.pack: algorithm: .*'first_fit_shuffle', "),
        (["--pack-size", "16", "--context-parallel-size", "8"], "no room for a sequence"),
        (["--chat-template", "missing.jinja"], "missing.jinja"),
        ([], "missing.jsonl cannot be read: No such file or directory."),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    what = ["--input", "missing.jsonl", "--tokenizer", "model", "--output", "out"]
    monkeypatch.setattr(sys, "argv", ["trainer.pack", *what, *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_reported_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = ["--input", "missing.jsonl", "--tokenizer", "model", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["trainer.pack", *what])
    with pytest.raises(SystemExit, match=r"exists\. Name a new directory"):
        main()


@pytest.mark.parametrize("arguments", [[], ["--output", "out", "--preview", "1"], ["--preview", "0"]])
def test_there_is_an_output_or_a_preview(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer.pack", "--input", "x", "--tokenizer", "y", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "--preview" in capsys.readouterr().err
