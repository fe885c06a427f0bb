#!/bin/bash
#SBATCH --job-name=sft-image-553b2e3090a0fb24
#SBATCH --account=llm
#SBATCH --partition=cpu
#SBATCH --qos=high
#SBATCH --reservation=tuesday
#SBATCH --constraint=h100&nvlink
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=01:00:00
#SBATCH --chdir=/lustre/sft
#SBATCH --output=/lustre/sft/images/sft-image-553b2e3090a0fb24.log
#SBATCH --export=NONE

# Imported once, whoever asks: under a lock, to a temporary name, and renamed when it is whole.
set -u
umask 077
module load slurm
key=sha256-0000000000000000000000000000000000000000000000000000000000000000
cd /lustre/sft/images || exit 74
exec 9> "$key.lock"
flock 9
[ ! -e "$key.sqsh" ] || exit 0
file=$key.$SLURM_JOB_ID.sqsh
trap 'rm -f ".$file"' EXIT
enroot import --output ".$file" 'docker://nvcr.io#nvidia/nemo@sha256:0000000000000000000000000000000000000000000000000000000000000000' 9>&- || exit 1
mv ".$file" "$file"
# Who uses the old file goes on with it: only the link moves.
ln -sfn "$file" ".$key.link" && mv -T ".$key.link" "$key.sqsh"
