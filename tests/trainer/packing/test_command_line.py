"""Options of `python -m trainer.pack` that make no sense: one line says what is wrong."""

import re
import sys
from pathlib import Path

import pytest

from trainer.pack import main
from trainer.packing.options import PackOptions
from trainer.packing.splits import holdout_sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pack-size", "3x"], "trainer.pack: pack_size: .*valid integer"),
        (["--valid-share", "1.5"], "trainer.pack: 1 minus --valid-share and --test-share: .*greater than 0"),
        (["--valid-share", "-0.5"], "trainer.pack: 1 minus --valid-share and --test-share: .*equal to 1"),
        (["--test-share", "-0.01"], "trainer.pack: --test-share: .*equal to 0"),
        (["--valid-count", "-1"], "trainer.pack: --valid-count: .*equal to 0"),
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (10, 10)), (["--valid-count", "0"], (0, 10)), (["--test-count", "5"], (10, 5)),
        (["--test-count", "5", "--valid-share", "0.1"], (100, 5)),
        (["--valid-count", "0", "--test-count", "0"], (0, 0)),
    ],
)  # fmt: skip
def test_a_split_that_no_count_names_keeps_its_share(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: tuple[int, int]
) -> None:
    def sizes(
        _sources: object, _tokenizer: object, _output: object, options: PackOptions, _how: object
    ) -> None:
        raise OSError(f"{holdout_sizes(options, 1000)}")  # the command ends here

    what = ["--input", "x", "--tokenizer", "y", "--output", "z"]
    monkeypatch.setattr(sys, "argv", ["trainer.pack", *what, *arguments])
    monkeypatch.setattr("trainer.pack.pack_sources", sizes)
    with pytest.raises(SystemExit, match=re.escape(str(expected))):
        main()


@pytest.mark.parametrize("arguments", [[], ["--output", "out", "--preview", "1"], ["--preview", "0"]])
def test_there_is_an_output_or_a_preview(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trainer.pack", "--input", "x", "--tokenizer", "y", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "--preview" in capsys.readouterr().err
