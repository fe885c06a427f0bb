# bash -s -- DIRECTORY MODE OPTION...: submits DIRECTORY/job.sh once, even if called repeatedly; prints the job id.
# MODE is `first`, or `again` if the scheduler was asked and does not know the job.
# Exits with 75 if an earlier try may have reached the scheduler, so that the caller has to ask it, and if the
# files of the attempt cannot be used, because that is not a rejection by the scheduler.
umask 077
cd "$1" && : > submit.lock || exit 75
exec 9> submit.lock
flock -w 20 9 || exit 75
[ ! -s external_id ] || exec cat external_id
[ ! -e tried ] || [ "$2" = again ] || exit 75
touch tried || exit 75
shift 2
id=$(timeout 40 sbatch --parsable "$@" job.sh 9>&-) || exit $?
{ printf '%s\n' "${id%%;*}" > .external_id && mv .external_id external_id && cat external_id; } || exit 75
