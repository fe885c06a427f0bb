"""Packed data: what a dataset holds, and what is wrong with it, before a job names it."""

from fastapi import APIRouter, Depends

from api.auth import SubmitterDep, get_caller
from api.problems import declared
from worker.planning.dataset_inspection import Dataset, DatasetRequest, inspect

router = APIRouter(tags=["datasets"], dependencies=[Depends(get_caller)])


@router.post("/datasets:inspect", responses=declared(403, 413, 415, 422))
def inspect_dataset(wanted: DatasetRequest, _caller: SubmitterDep) -> Dataset:
    """Look at packed data: rows, tokens, packing, problems.

    Footers of all shards are read, and a sample of rows; with `full` every row, until the service's time
    limit (SFT_MAX_INSPECT_SECONDS) ends it: then a problem with the severity `unverified` says what is left.
    """
    return inspect(wanted)
