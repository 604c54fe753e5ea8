#!/usr/bin/env bash
# gpu_report.sh [--build-dir DIR] [--output FOLDER] [--minutes N] [--total N] [--quick] [--bench "ARGUMENTS"] [--nets "NETS"] --
# everything there is to learn from a machine with an NVIDIA GPU, in one command: tests, training, timings. Leaves one folder.
#
#   --build-dir DIR   default: the bundle this script lies in (scripts/bundle.sh), else build/cuda
#   --output FOLDER   default: gpu-report-<date>-<time>
#   --minutes N       no step takes longer (default 60)
#   --total N         after so many minutes (Ns: seconds) what is left is not run (default: no limit)
#   --quick           without compute-sanitizer and the comparison with PyTorch
#   --bench "..."     arguments of scripts/bench/gpu, for example "--peers bf16 lsq-native-bf16 --rounds 2 --steps 20": all
#                     peers and rounds of four networks take most of an hour
#   --nets "..."      networks of the comparison and of single layers, in this order (default: imagenet-resnet18 cifar-resnet20
#                     imagenet-resnet50 cifar-resnet18)
#
# Steps come in the order of what they tell: doctor (does an integer convolution run, and by whose kernel), tests, a training run,
# PyTorch and single layers network by network, each with results of its own, and compute-sanitizer last. FOLDER/summary.md has a line for each step: what came out, after how long, and
# its log. QATTRAIN_PYTHON (default: python3) names a Python with PyTorch for scripts/bench/gpu; without PyTorch that is skipped.
#
# Exit codes: 0 all passed or was skipped; 1 something failed, the rest has run all the same; 2 usage; 3 no GPU: nothing ran.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() { sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
build='' output=gpu-report-$(date +%Y%m%d-%H%M%S) minutes=60 total='' quick=false bench=() nets=(imagenet-resnet18 cifar-resnet20 imagenet-resnet50 cifar-resnet18)
while (($#)); do
  case $1 in
    --build-dir | --output | --minutes | --total | --bench | --nets)
      (($# > 1)) || usage
      case $1 in
        --build-dir) build=$2 ;;
        --output) output=$2 ;;
        --minutes) minutes=$2 ;;
        --bench) read -ra bench <<<"$2" ;;
        --nets) read -ra nets <<<"$2" ;;
        *) total=$2 ;;
      esac
      shift 2
      ;;
    --quick) quick=true && shift ;;
    *) usage ;;
  esac
done
[[ $minutes =~ ^[1-9][0-9]*$ && $total =~ ^([1-9][0-9]*s?)?$ ]] || usage
case $total in
  '') most='' ;;
  *s) most=${total%s} ;;
  *) most=$((total * 60)) ;;
esac

# How programs are started: of a bundle by its `run`, which finds CUDA's libraries.
if [[ -z $build && -x $root/run ]]; then
  start=("$root/run") programs=$root/bin where=("$root/run" --where)
else
  start=() programs=$(realpath -m "${build:-$root/build/cuda}") where=()
fi
command_of() { # command_of PROGRAM: sets `command`
  command=("${start[@]}" "$1")
  if ((${#start[@]} == 0)); then command=("$programs/$1"); fi
}
if [[ ! -x $programs/qattrain ]]; then
  echo "gpu_report.sh: there is no $programs/qattrain: cmake --preset cuda && cmake --build --preset cuda" >&2
  exit 2
fi
command_of qattrain
version=$("${command[@]}" --version=full 2>&1)
cuda=$(sed -n 's/^CUDA: //p' <<<"$version")
if [[ ! $cuda =~ ^[0-9]+\ device ]]; then
  echo "gpu_report.sh: $programs/qattrain says 'CUDA: ${cuda:-nothing}': there is no GPU to report on, and nothing was run" >&2
  exit 3
fi

mkdir -p "$output"
output=$(realpath "$output")
cd "$root" || exit 1
failed=0
{
  echo "$version"
  "${where[@]}"
  lscpu
  nvidia-smi
  nvidia-smi -q
} >"$output/machine.txt" 2>&1
{
  echo "# Report of a GPU, $(date -u +%Y-%m-%d)"
  echo
  echo "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null); machine.txt has the rest."
  echo
  echo "| step | outcome | seconds | log |"
  echo "|---|---|---|---|"
} >"$output/summary.md"

row() { printf '| %s | %s | %s | %s |\n' "$@" | tee -a "$output/summary.md"; }
step() { # step NAME COMMAND...: its log is NAME.log; exit codes 77 and 3 mean that it was skipped
  local name=$1 log=$output/$1.log began=$SECONDS limit=$((minutes * 60)) code outcome
  shift
  if [[ -n $most ]] && ((limit > most - SECONDS)); then limit=$((most - SECONDS)); fi
  if ((limit <= 0)); then
    row "$name" "skipped: $most seconds are over" 0 ""
    return
  fi
  timeout --kill-after=30 "$limit" "$@" >"$log" 2>&1
  code=$?
  case $code in
    0) outcome=passed ;;
    77 | 3) outcome="skipped: $(grep -v '^$' "$log" | tail -n 1 | tr '|' '/')" ;;
    124 | 137) outcome="FAILED: not done after $limit seconds" ;;
    *) outcome="FAILED: exit code $code" ;;
  esac
  if [[ $outcome == FAILED* ]]; then failed=1; fi
  row "$name" "$outcome" "$((SECONDS - began))" "$name.log"
}
present() { # present NAME PROGRAM: whether it was built
  [[ -x $programs/$2 ]] && return
  row "$1" "skipped: $2 was not built" 0 ""
  return 1
}

command_of qattrain
step doctor "${command[@]}" doctor --device cuda
row "integer convolution" "$(sed -n 's/^integer convolution: //p' "$output/doctor.log" | tr '|' '/')" 0 doctor.log
if present tests gpu_test; then
  command_of gpu_test
  step tests "${command[@]}" "--gtest_output=xml:$output/tests.xml"
fi
command_of qattrain
step training "${command[@]}" configs/smoke.yaml --device cuda --no-progress --run-dir "$output/runs"
python=${QATTRAIN_PYTHON:-python3} binary=$programs/qattrain
if ((${#start[@]} > 0)); then binary=$root/qattrain; fi
has_torch=false
if ! $quick && "$python" -c 'import torch' 2>/dev/null; then has_torch=true; fi
if ! $quick && ! $has_torch; then row pytorch "skipped: $python has no PyTorch" 0 ""; fi
for net in "${nets[@]}"; do
  if $has_torch; then
    step "pytorch_$net" "$python" scripts/bench/gpu --binary "$binary" --nets "$net" --work "$output/pytorch_$net" \
      --pictures "$output/pictures" "${bench[@]}"
  fi
  if [[ -x $programs/gpu_bench ]]; then
    command_of gpu_bench
    step "kernels_${net//-/_}" "${command[@]}" "--benchmark_filter=^${net//-/_}/" \
      "--benchmark_out=$output/kernels_${net//-/_}.json" --benchmark_out_format=json
  fi
done
rm -rf "$output/pictures"
present kernels gpu_bench
if ! $quick && [[ -x $programs/gpu_test ]]; then
  command_of gpu_test
  for tool in memcheck racecheck initcheck synccheck; do
    step "$tool" bash tests/gpu/compute_sanitizer.sh "$tool" "${command[@]}"
  done
fi

echo "report: $output"
exit "$failed"
