#!/usr/bin/env bash
# mpirun.sh RANKS CONFIG [key.path=value ...] [--options] -- trains on RANKS processes of this machine, or of the machines
# that MPIRUN_OPTIONS names.
#
#   QATTRAIN          the program (default: build/cpu/qattrain of this checkout)
#   MPIRUN_OPTIONS    more for mpirun: "--hostfile hosts --map-by node", "--oversubscribe" for more ranks than cores
#   REQUEUE=1         start again from the newest checkpoint when the program stopped itself with one (exit code 75, for
#                     example after --max-time) and nobody asked this script to stop
#
# SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 to this script end the step or evaluation, save and exit with 75: they reach
# the program as SIGUSR2, because mpirun itself gives its processes only a second after SIGTERM. Exit codes are those of
# qattrain; a rank that was killed is 7, where mpirun alone would say 137.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=${QATTRAIN:-$here/build/cpu/qattrain}
if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
ranks=$1
shift
command -v mpirun >/dev/null || { echo "mpirun.sh: there is no mpirun: scripts/install_packages.sh" >&2 && exit 2; }

# Open MPI kills all ranks soon after one was lost; the others should get to say what they know of it.
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-2}
# Each rank takes its share of the cores as threads, so mpirun must not tie it to one of them.
read -ra options <<<"${MPIRUN_OPTIONS:-}"
command=(mpirun -np "$ranks" --bind-to none "${options[@]}" "$program")
asked=false

newest() { # newest ARGUMENTS...: into $again, those that go on where the run stopped, whatever it began from
  local resume=auto
  again=()
  while (($#)); do
    case $1 in
      --resume=*) resume=${1#*=} ;;
      --resume)
        resume=${2-}
        (($# > 1)) && shift
        ;;
      *) again+=("$1") ;;
    esac
    shift
  done
  [[ $resume == never ]] && resume=auto
  again+=("--resume=${resume%/checkpoints/*}")
}

run() { # run COMMAND...: waits for it and passes signals on; the exit code is in $code
  local child=
  trap 'asked=true; [[ -z $child ]] || kill -USR2 "$child" 2>/dev/null' TERM INT HUP USR1 USR2
  # In a session of its own: a terminal's Ctrl-C comes here only, and not to mpirun as well, which would end its ranks.
  setsid "$@" &
  child=$!
  while true; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break # a signal ends `wait`, not the child
  done
  wait "$child" # where a signal ended the last one
  code=$?
  trap - TERM INT HUP USR1 USR2
}

run "${command[@]}" "$@"
while ((code == 75)) && [[ ${REQUEUE:-0} == 1 ]] && ! $asked; do
  newest "$@"
  run "${command[@]}" "${again[@]}"
done
case $code in
  [0-7] | 75) ;;
  *)
    echo "mpirun.sh: a rank was lost (mpirun's exit code $code)" >&2
    code=7
    ;;
esac
exit "$code"
