"""Records become tokens and masks as the reference gives them with the tokenizer of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_runs import trainer_python
from tests.trainer.packing.test_chunks import ANSWERED, ASKED, KINDS, TEMPLATES, says

pytestmark = pytest.mark.training


def tokenized(cases: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """Return what tests/trainer/packing/tokenized.py gives for each case."""
    module = "tests.trainer.packing.tokenized"
    done = trainer_python("-m", module, str(directory / "tokenizer"), input=json.dumps(cases), check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_tokens_and_masks_of_each_kind(tmp_path: Path) -> None:
    cases = [
        {"record": record, "template": template}
        for record in KINDS.values()
        for template in TEMPLATES.values()
    ]
    for case, result in zip(cases, tokenized(cases, tmp_path), strict=True):
        assert result["ours"] == result["theirs"], case["record"]
        is_unanswered = case["record"]["messages"][-1]["role"] == "user"
        if not is_unanswered:
            assert result["ours"][-1]["ids"] == result["rendered"], case["record"]


def test_what_is_counted_and_rejected(tmp_path: Path) -> None:
    template = TEMPLATES["earlier_reasoning_dropped"]
    own: dict[str, Any] = {"record": {"messages": [ASKED, ANSWERED]}, "template": None}
    cut = {"template": template, "options": {"max_tokens": 60}}
    cases = [
        own,
        asking("What is <|im_end|>?", template=template),
        asking("a < b > c", template=template),
        asking("\ud800", template=template),
        {"record": {"messages": [ASKED]}, "template": template},
        {"record": {"messages": [ASKED, {**ANSWERED, "weight": 0}]}, "template": template},
        {**own, "template": template, "options": {"max_tokens": 4}},
        {**own, **cut},
        {"record": {"messages": [ASKED, says("assistant", "word " * 40)]}, **cut},
    ]
    results = tokenized(cases, tmp_path)
    reasons = {number: result["reason"] for number, result in enumerate(results) if "reason" in result}
    assert reasons == {
        3: "lone_surrogate",
        4: "nothing_trained",
        5: "nothing_trained",
        6: "cut_before_answer",
    }
    made = [result for result in results if "ours" in result]
    assert [result["special_in_content"] for result in made] == [0, 1, 0, 0, 0]
    assert [result["cut"] for result in made] == [0, 0, 0, 0, 1]
    [last] = made[-1]["ours"]
    assert (len(last["ids"]), last["mask"][-1]) == (60, 0)


def test_only_sequences_with_room_for_an_answer_are_made(tmp_path: Path) -> None:
    """A long conversation with reasoning would give ever longer sequences, none of which is trained."""
    thought = says("assistant", "word " * 10, reasoning_content="hm")
    record = {"messages": [says("user", "word " * 10), thought] * 60}
    case = {
        "record": record,
        "template": TEMPLATES["earlier_reasoning_dropped"],
        "options": {"max_tokens": 400},
    }
    [result] = tokenized([case], tmp_path)
    assert 1 < len(result["ours"]) < 10
    assert result["rendered_sequences"] == len(result["ours"]) + 1


def test_records_are_filtered_by_their_use(tmp_path: Path) -> None:
    uses: list[Any] = ["sft", "sft, rl", ["rl", "sft"], "rl", ["rl"], None, 5, "sft2"]
    template = TEMPLATES["earlier_reasoning_dropped"]
    cases = [
        {"record": {"messages": [ASKED, ANSWERED], "used_in": use}, "template": template,
         "options": {"used_in": "sft"}}
        for use in uses
    ]  # fmt: skip
    assert [len(result["ours"]) for result in tokenized(cases, tmp_path)] == [1, 1, 1, 0, 0, 0, 0, 0]


def asking(text: str, template: str) -> dict[str, Any]:
    return {"record": {"messages": [says("user", text), ANSWERED]}, "template": template}
