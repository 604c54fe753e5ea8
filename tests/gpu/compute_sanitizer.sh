#!/usr/bin/env bash
# compute_sanitizer.sh TOOL GPU_TEST... -- the small tests of gpu_test, started by the command GPU_TEST, under
# compute-sanitizer's TOOL (memcheck, racecheck, initcheck, synccheck). Exit code 77 and a line "SKIPPED: why" where there is
# no GPU or no compute-sanitizer.
set -uo pipefail

if (($# < 2)) || [[ ! $1 =~ ^(memcheck|racecheck|initcheck|synccheck)$ ]]; then
  echo "usage: compute_sanitizer.sh memcheck|racecheck|initcheck|synccheck GPU_TEST..." >&2
  exit 2
fi
tool=$1
shift
small='Launchers.*:Table/*:Rows/*:GpuQuantizer.*:GpuProducts.*'
# What libraries read of their own buffers before they write them is not for us to mend.
if [[ $tool == initcheck ]]; then small='Launchers.*:Rows/*:GpuQuantizer.*'; fi

skip() { echo "SKIPPED: $1: nothing was checked by $tool" && exit 77; }

# The program itself knows best whether it has a GPU.
said=$("$@" --gtest_filter='GpuProducts.OfCodes*' 2>&1)
if [[ $said == *"no CUDA device"* ]]; then skip "no CUDA device"; fi
cuda=${CUDA_HOME:-/usr/local/cuda}
sanitizer=$(PATH=$PATH:$cuda/bin:$cuda/compute-sanitizer command -v compute-sanitizer) ||
  skip "compute-sanitizer is not in PATH, CUDA_HOME or /usr/local/cuda"
exec "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 1 "$@" --gtest_filter="$small"
