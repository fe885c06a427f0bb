"""The table of states holds together."""

from worker.states import (
    AWAITING_TASK,
    LIVE,
    POLLED,
    TERMINAL,
    TRANSITIONS,
    Action,
    JobState,
    allowed_actions,
)


def test_every_state_has_its_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(JobState)
    reached = {JobState.VALIDATING}.union(*TRANSITIONS.values())
    assert reached == set(JobState)


def test_every_live_job_can_be_cancelled_and_comes_to_an_end() -> None:
    for state in LIVE - {JobState.CANCELLING, JobState.FINALIZING}:
        assert JobState.CANCELLING in TRANSITIONS[state], state
    for state in LIVE:
        assert allowed_actions(state)[-1] is Action.CANCEL
        assert _ends(state), state


def _ends(state: JobState) -> bool:
    seen, waiting = set(), [state]
    while waiting:
        here = waiting.pop()
        seen.add(here)
        waiting += TRANSITIONS[here] - seen
    return bool(seen & TERMINAL)


def test_who_runs_can_be_paused_and_who_is_paused_goes_on() -> None:
    for state in LIVE:
        assert (Action.PAUSE in allowed_actions(state)) == (
            state is JobState.PAUSING or JobState.PAUSING in TRANSITIONS[state]
        )
        assert (Action.RESUME in allowed_actions(state)) == (state is JobState.PAUSED)


def test_an_end_is_left_only_by_a_retry_and_success_never() -> None:
    assert TRANSITIONS[JobState.SUCCEEDED] == frozenset()
    assert allowed_actions(JobState.SUCCEEDED) == []
    for state in TERMINAL - {JobState.SUCCEEDED}:
        assert TRANSITIONS[state] == {JobState.VALIDATING}
        assert allowed_actions(state) == [Action.RETRY]


def test_no_live_job_is_forgotten() -> None:
    # Either its backend is polled, or the sweep enqueues its task again; a pause waits for people.
    assert POLLED | AWAITING_TASK | {JobState.PAUSED} == LIVE
