"""Check what the loss masks of packed data train: a wrong template or rule trains nothing, or the prompts."""

from collections.abc import Iterator

from trainer.dataset import Inspection
from trainer.dataset.masks import MAX_SHARE, MIN_SHARE, PROMPTS, TRAINED, UNTRAINED, MaskCounts
from trainer.failures import FAILURES
from trainer.preflight.finding import Finding, Severity, finding

CODE = "bad_loss_masks_or_template"
EVERYTHING = "all"
"""The rule of masks that trains every token."""
HINT = FAILURES[CODE].recovery


def check(found: Inspection, pointer: str, rule: str | None) -> Iterator[Finding]:
    """Yield findings about the rows read. Certain ones are errors if all rows were read, else warnings.

    rule: that of the masks, as the packing metadata record it.
    """
    masks = found.masks
    if not masks.tokens:
        return
    if rule == EVERYTHING and masks.trained >= MIN_SHARE * masks.tokens:
        return  # as intended; the finding other_mask_rule names the rule
    # Masks are shifted: the first token of a sequence has no entry, and the last entry no token.
    if not masks.trained or masks.trained >= masks.tokens - masks.sequences:
        severity: Severity = "error" if found.rows_read == found.rows else "warning"
        yield finding(severity, CODE, pointer, _certain(masks, found.rows_read), HINT)
        return
    if message := _share(masks):
        yield finding("warning", CODE, pointer, message, HINT)
    if 2 * masks.prompts > masks.sequences:
        message = (
            f"{masks.prompts} of {masks.sequences} sequences read are trained from their first token on, "
            f"where the prompt is. First: {masks.first[PROMPTS]}."
        )
        yield finding("warning", CODE, pointer, message, HINT)


def _certain(masks: MaskCounts, rows: int) -> str:
    if masks.trained:
        what = f"1 in all {rows} rows read: all {masks.trained} tokens would be trained, prompts included"
        # In rows of short sequences the share of trained tokens may be usual.
        return f"loss_mask is {what}. First: {masks.first[PROMPTS]}."
    what = f"0 in all {rows} rows read: nothing would be trained, none of {masks.tokens} tokens"
    return f"loss_mask is {what}. First: {masks.first[UNTRAINED]}."


def _share(masks: MaskCounts) -> str | None:
    share = masks.trained / masks.tokens
    if MIN_SHARE <= share <= MAX_SHARE:
        return None
    usual = f"{MIN_SHARE:.0%} to {MAX_SHARE:.0%} are usual"
    # A share outside the bounds has at least one row outside of them.
    first = masks.first[UNTRAINED] if share < MIN_SHARE else masks.first[TRAINED]
    return (
        f"{masks.trained} of {masks.tokens} tokens read are trained ({share:.3%}); {usual}. First: {first}."
    )
