# Runs in each replica. This script contains no text of the client: that is in the config file only.
set -u
umask 027
run=/workspace/sft/jobs/job-019abc/attempts/1
mkdir -p "$run/logs" || exit 78

# Only one job of a duplicate submission runs: the first to write the claim. The job's replicas share the claim.
me=${LEPTON_JOB_WORKER_PREFIX:-$HOSTNAME} index=0 leader=127.0.0.1
printf '%s\n' "$me" > "$run/claim.$me.$index"
ln -T "$run/claim.$me.$index" "$run/claim" 2> /dev/null ||
    cmp -s "$run/claim.$me.$index" "$run/claim" ||
    { echo "Another job has this attempt: $(cat "$run/claim")"; exit 75; }
# A restart by Lepton must not run: only the service starts another attempt.
mkdir "$run/began.$index" 2> /dev/null ||
    { echo "This attempt has begun before: the service begins another one."; exit 75; }

code=$(mktemp -d) || exit 78
python3 -c '"""python -c THIS DIRECTORY CONFIG REPLICA: unpack the code into DIRECTORY, and the job'"'"'s config to CONFIG."""

import base64
import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

parts = [os.environ[f"SFT_BUNDLE_{number}"] for number in range(int(os.environ["SFT_BUNDLE_PARTS"]))]
packed = base64.b64decode("".join(parts))
if hashlib.sha256(packed).hexdigest() != os.environ["SFT_BUNDLE_SHA256"]:
    sys.exit("The trainer'"'"'s code and config did not arrive whole: their checksum is another one.")
directory, config = map(Path, sys.argv[1:3])
with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as bundle:
    bundle.extractall(directory, filter="data")
# All replicas write the same bytes, possibly into a shared directory: the rename is atomic.
fresh = config.with_name(f"{config.name}.{sys.argv[3]}")
fresh.write_bytes((directory / config.name).read_bytes())
fresh.replace(config)
' "$code" "$run/config.yaml" "$index" || exit 78
unset ${!SFT_BUNDLE_*}
export PYTHONPATH=$code PYTHONUNBUFFERED=1
export SFT_ROOTS='[]'

# Lepton has no time limit: ask the trainer to save before the limit, and kill it at the limit.
stop() { [ -e "$run/stop" ] || printf '%s\n' "$1" > "$run/stop"; }
trap 'stop terminated' TERM
{ sleep 5100; stop "time limit"; } > /dev/null 2>&1 &
reminder=$!
timeout --kill-after=60 5400 python3 -m torch.distributed.run \
    --nnodes 1 --node-rank "$index" --nproc-per-node 1 \
    --master-addr "$leader" --master-port 29400 \
    -m trainer "$run/config.yaml" &
launcher=$!
while :; do
    wait "$launcher"
    code=$?
    kill -0 "$launcher" 2> /dev/null || break
done
kill "$reminder"
[ "$code" != 124 ] || echo "The run was ended at its time limit of 90 minutes."
exit "$code"
