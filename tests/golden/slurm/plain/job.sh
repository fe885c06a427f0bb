#!/bin/bash
#SBATCH --job-name=job-1.2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --time=01:30:00
#SBATCH --no-requeue
#SBATCH --signal=B:USR1@300
#SBATCH --chdir=/lustre/sft
#SBATCH --output=/lustre/sft/jobs/job-1/attempts/2/logs/job.log
#SBATCH --open-mode=append
#SBATCH --export=NONE

# This script contains no text of the client: that is in the config file only.
set -u
umask 077
export SLURM_EXPORT_ENV=ALL

submitted=/lustre/sft/jobs/job-1/attempts/2
run=/lustre/sft/jobs/job-1/attempts/$((2 + ${SLURM_RESTART_COUNT:-0}))

# Only one job of a duplicate submission runs: the first to write the claim. A requeued job already has the
# claim of its submission, and also needs the claim of its current attempt.
claim() {
    printf '%s\n' "$SLURM_JOB_ID" > "$1/claim.$SLURM_JOB_ID"
    ln -T "$1/claim.$SLURM_JOB_ID" "$1/claim" 2> /dev/null && return
    cmp -s "$1/claim.$SLURM_JOB_ID" "$1/claim" && return
    echo "Another submission has this attempt: $(cat "$1/claim")" >&2
    exit 75
}
claim "$submitted"
if [ "$run" != "$submitted" ]; then
    mkdir -p "$run/logs"
    claim "$run"
    cp "$submitted/config.yaml" "$run/config.yaml"
    exec >> "$run/logs/job.log" 2>&1
    # Slurm may also requeue a finished job, if its controller has lost the job's end.
    last=/lustre/sft/jobs/job-1/attempts/$((2 + SLURM_RESTART_COUNT - 1))
    if grep -qs '"event": "finished"' "$last/end.json"; then
        echo "The run had finished: there is nothing to do."
        cp "$last/end.json" "$run/end.json"
        exit 0
    fi
fi

export SFT_RUN="$run" MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))

# Slurm signals before the time limit and before a preemption: the trainer then saves and ends.
began=$SECONDS
stop() {
    reason=preemption
    [ $((SECONDS - began)) -lt 5010 ] || reason="time limit"
    [ -e "$run/stop" ] || printf '%s\n' "$reason" > "$run/stop"
}
trap stop USR1

# A step gets one CPU unless it requests all CPUs of the job.
srun --nodes=1 --ntasks=1 --ntasks-per-node=1 \
    --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=1 \
    bash "$submitted/node.sh" &
step=$!
while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2> /dev/null || break
done
rm -f "$submitted/secrets.sh"
exit "$code"
