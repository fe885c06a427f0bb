"""Inspection of packed data before a job uses it."""

from fastapi import APIRouter, Depends

from api.auth import SubmitterDep, get_caller
from api.problems import declared
from api.slots import Slot
from worker.planning.dataset_inspection import Dataset, DatasetRequest, inspect

router = APIRouter(tags=["datasets"], dependencies=[Depends(get_caller)])


@router.post("/datasets:inspect", responses=declared(403, 413, 415, 422))
def inspect_dataset(request: DatasetRequest, caller: SubmitterDep, _slot: Slot) -> Dataset:
    """Inspect packed data: rows, tokens, packing, problems.

    The service reads the footers of all shards and a sample of rows; with `full` every row, until the time
    limit SFT_MAX_INSPECT_SECONDS. Then a problem with the severity `unverified` names the rows not read.
    """
    return inspect(request, caller.tenant)
