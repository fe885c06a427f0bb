#!/bin/bash
#SBATCH --job-name=sft-image-d56c89dad4efdf7a
#SBATCH --account=llm
#SBATCH --partition=cpu
#SBATCH --qos=high
#SBATCH --reservation=tuesday
#SBATCH --constraint=h100&nvlink
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=01:00:00
#SBATCH --chdir=/lustre/sft
#SBATCH --output=/lustre/sft/images/sft-image-d56c89dad4efdf7a.log
#SBATCH --export=NONE

# Imported once, by the first job of several: under a lock, to a temporary name, renamed when complete.
set -u
umask 077
set +u
module load slurm
key=sha256-0000000000000000000000000000000000000000000000000000000000000000
cd /lustre/sft/images || exit 74
exec 9> "$key.lock"
flock 9
[ ! -e "$key.sqsh" ] || exit 0
# Remove the files of killed imports; no import takes longer than its time limit of 60 minutes.
find . -maxdepth 1 -name "$key.*.sqsh.part" -mmin +60 -delete
file=$key.$SLURM_JOB_ID.sqsh
trap 'rm -f "$file.part"' EXIT
enroot import --output "$file.part" 'docker://nvcr.io#nvidia/nemo@sha256:0000000000000000000000000000000000000000000000000000000000000000' 9>&- || exit 1
mv "$file.part" "$file"
# Runs that use the old file keep it: only the link moves.
ln -sfn "$file" ".$key.link" && mv -T ".$key.link" "$key.sqsh"
