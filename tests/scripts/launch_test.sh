#!/usr/bin/env bash
# launch_test.sh -- scripts/launch/mpirun.sh and slurm.sbatch: what they start, the signals that they pass on, exit codes,
# and when a job is queued or started again. mpirun, srun and scontrol are stand-ins that note their calls.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0
mkdir bin

# The nth call ends with the nth word of $CODES, "wait" being a call that ends with 75 once SIGUSR2 comes, and with 99
# where another signal does or none within 20 s.
cat >bin/mpirun <<'STAND_IN'
#!/usr/bin/env bash
# A real mpirun takes SIGINT even where a shell started it in the background, with SIGINT ignored.
[[ ${READY:-} ]] || exec env --default-signal=INT READY=1 "$0" "$@"
echo "${0##*/} $*" >>calls
read -ra codes <<<"$CODES"
code=${codes[$(grep -c "^${0##*/} " calls) - 1]}
[[ $code == wait ]] || exit "$code"
trap 'echo USR2 >>signals; exit 75' USR2
trap 'echo other >>signals; exit 99' TERM INT USR1
touch started
for ((i = 0; i < 400; i++)); do sleep 0.05; done
exit 99
STAND_IN
cp bin/mpirun bin/srun
# Only what changes something is noted.
cat >bin/scontrol <<'STAND_IN'
#!/bin/sh
if [ "$1" = show ]; then
  printf 'JobId=%s JobName=qattrain\n   Priority=1 Nice=0\n   JobState=%s Reason=None\n' "$3" "${STATE:-RUNNING}"
else
  echo "scontrol $*" >>calls
fi
STAND_IN
chmod +x bin/*
PATH=$folder/bin:$PATH
export QATTRAIN=/place/of/qattrain
unset MPIRUN_OPTIONS REQUEUE SLURM_JOB_ID SLURM_SUBMIT_DIR SLURM_MPI OMPI_MCA_odls_base_sigkill_timeout

check() { # check WHAT CONDITION...
  local what=$1
  shift
  if "$@"; then
    echo "ok: $what"
  else
    echo "FAILED: $what ($*)"
    sed 's/^/  /' calls output 2>/dev/null
    failures=$((failures + 1))
  fi
}
expect() { # expect WHAT CODE CALLS: of the last run
  check "$1" [ "$code" = "$2" ]
  check "$1: calls" [ "$(cat calls 2>/dev/null)" = "$3" ]
}
fresh() { rm -f calls signals started output; }
run() { # run CODES COMMAND...
  fresh
  CODES=$1 "${@:2}" >output 2>&1
  code=$?
}
run_and_signal() { # run_and_signal SIGNAL CODES COMMAND...
  fresh
  CODES=$2 "${@:3}" >output 2>&1 &
  local script=$!
  for ((i = 0; i < 400; i++)); do
    [[ -e started ]] && break
    sleep 0.05
  done
  kill -"$1" "$script"
  wait "$script"
  code=$?
}

mpirun_sh=$root/scripts/launch/mpirun.sh
started="mpirun -np 2 --bind-to none $QATTRAIN c.yaml train.batch=8"

run 0 "$mpirun_sh" 2 c.yaml train.batch=8
expect "mpirun.sh starts the program" 0 "$started"
MPIRUN_OPTIONS="--hostfile hosts --oversubscribe" run 0 "$mpirun_sh" 2 c.yaml
expect "mpirun.sh takes more options" 0 "mpirun -np 2 --bind-to none --hostfile hosts --oversubscribe $QATTRAIN c.yaml"
run 5 "$mpirun_sh" 2 c.yaml train.batch=8
expect "mpirun.sh has the program's exit code" 5 "$started"
run 137 "$mpirun_sh" 2 c.yaml train.batch=8
expect "a killed rank is 7" 7 "$started"
check "a killed rank is named" grep -q "a rank was lost (mpirun's exit code 137)" output
run 75 "$mpirun_sh" 2 c.yaml train.batch=8
expect "75 ends mpirun.sh" 75 "$started"
REQUEUE=1 run "75 75 0" "$mpirun_sh" 2 c.yaml train.batch=8
expect "REQUEUE=1 starts again after 75, from the checkpoint" 0 "$started
$started --resume=auto
$started --resume=auto"
program="mpirun -np 2 --bind-to none $QATTRAIN c.yaml"
REQUEUE=1 run "75 7" "$mpirun_sh" 2 c.yaml --resume=must --seed 1
expect "REQUEUE=1 keeps what it was told of resuming, and ends with other codes" 7 \
  "$program --resume=must --seed 1
$program --seed 1 --resume=must"
for first in --resume=runs/x/checkpoints/step-100 "--resume runs/x/checkpoints/step-100"; do
  # shellcheck disable=SC2086  # words
  REQUEUE=1 run "75 0" "$mpirun_sh" 2 c.yaml $first
  expect "REQUEUE=1 goes on from the newest checkpoint, not from the one that the run began with" 0 "$program $first
$program --resume=runs/x"
done
REQUEUE=1 run "75 0" "$mpirun_sh" 2 c.yaml --resume=never
expect "REQUEUE=1 goes on with a run that was to be a new one" 0 "$program --resume=never
$program --resume=auto"
for signal in TERM USR1 USR2; do
  REQUEUE=1 run_and_signal $signal wait "$mpirun_sh" 2 c.yaml train.batch=8
  expect "SIG$signal to mpirun.sh ends it for good" 75 "$started"
  check "SIG$signal reaches the ranks as SIGUSR2" [ "$(cat signals)" = USR2 ]
done
# As a terminal does: to all processes of the group. `env`: what a script starts in the background ignores SIGINT.
fresh
REQUEUE=1 CODES=wait setsid env --default-signal=INT "$mpirun_sh" 2 c.yaml train.batch=8 >output 2>&1 &
script=$!
for ((i = 0; i < 400; i++)); do
  [[ -e started ]] && break
  sleep 0.05
done
kill -INT -- "-$script"
wait "$script"
code=$?
expect "Ctrl-C ends mpirun.sh for good" 75 "$started"
check "Ctrl-C reaches the ranks as SIGUSR2, and mpirun not at all" [ "$(cat signals)" = USR2 ]
for wrong in "0 c.yaml" "two c.yaml" "2"; do
  # shellcheck disable=SC2086  # words
  run 0 "$mpirun_sh" $wrong
  expect "mpirun.sh $wrong is refused" 2 ""
done
mkdir no_mpirun
for tool in bash sed dirname; do ln -s "$(command -v $tool)" no_mpirun/; done
run 0 env PATH="$folder/no_mpirun" "$mpirun_sh" 2 c.yaml
expect "a machine without mpirun is told so" 2 ""
check "a machine without mpirun is told so: text" grep -q "there is no mpirun" output

sbatch=$root/scripts/launch/slurm.sbatch
started="srun --kill-on-bad-exit=1 --cpus-per-task=1 --cpu-bind=cores --mpi=pmix $QATTRAIN c.yaml train.batch=8 --name job-42 --resume=auto"
export SLURM_JOB_ID=42
run 0 bash "$sbatch" c.yaml train.batch=8
expect "a complete job ends" 0 "$started"
SLURM_CPUS_PER_TASK=8 run 0 bash "$sbatch" c.yaml train.batch=8
expect "each rank has the cores that the job has for it" 0 "${started/cpus-per-task=1/cpus-per-task=8}"
run 75 bash "$sbatch" c.yaml train.batch=8
expect "a job that stopped itself is queued again" 0 "$started
scontrol requeue 42"
for lost in 7 137; do
  run $lost bash "$sbatch" c.yaml train.batch=8
  expect "a job that failed with $lost is not queued again" $lost "$started"
done
for signal in USR2 USR1 TERM; do
  run_and_signal $signal wait bash "$sbatch" c.yaml train.batch=8
  expect "after SIG$signal the job is queued again" 0 "$started
scontrol requeue 42"
  check "SIG$signal reaches srun as SIGUSR2" [ "$(cat signals)" = USR2 ]
done
STATE=CANCELLED run 75 bash "$sbatch" c.yaml train.batch=8
expect "a cancelled job stays cancelled" 75 "$started"
check "a cancelled job is told why" grep -q "state is CANCELLED: not queued again" output
check "Slurm is asked for a signal before the end" grep -q '^#SBATCH --signal=B:USR2@' "$sbatch"
check "Slurm is told that the job may be queued again" grep -q '^#SBATCH --requeue$' "$sbatch"
unset SLURM_JOB_ID
run 0 bash "$sbatch" c.yaml
check "outside of a job it says so" grep -q "this file is for sbatch" output
check "outside of a job nothing starts" [ "$code" != 0 -a ! -e calls ]

if command -v shellcheck >/dev/null; then
  check "shellcheck" shellcheck "$mpirun_sh" "$sbatch"
fi
echo "$failures failures"
((failures == 0))
