#!/usr/bin/env bash
# test.sh [--full] -- builds everything and tests it, from a fresh Debian 12 on: packages, Python environment, build,
# scripts/check.sh, all tests but the long ones. Where nvcc is found the CUDA build is made too and its kernels tested.
#
#   --full            also the long tests, and everything again under address and undefined-behaviour sanitizers
#   QATTRAIN_DATA     folder with the real images that some tests need (default: ../shared/data where it exists);
#                     without it those tests are skipped
#
# The last lines are the summary; the exit code is 0 only if everything passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$PWD

case "${1:-}" in
  "") full=false ;;
  --full) full=true ;;
  *) echo "usage: scripts/test.sh [--full]" >&2 && exit 2 ;;
esac

failed=0
summary=()
say() { printf '\n==== %s (%d s)\n' "$1" "$SECONDS"; }
warn() { printf '\n**** WARNING: %s\n' "$1" && summary+=("WARNING: $1"); }
fail() { summary+=("FAILED: $1") && failed=1; }
finish() {
  printf '\n==== summary (%d s)\n' "$SECONDS"
  printf '%s\n' "${summary[@]}"
  exit "$failed"
}

say "packages"
if ! scripts/install_packages.sh; then
  fail "scripts/install_packages.sh"
  finish
fi

# The packages that tests read our files with. An environment is made anew when the list has changed.
say "Python environment"
mkdir -p build
venv=$root/build/venv
requirements=scripts/python/requirements.txt
export QATTRAIN_PYTHON=$venv/bin/python
if ! cmp -s "$requirements" "$venv/installed.txt"; then
  python3 -m venv --clear --system-site-packages "$venv" &&
    "$QATTRAIN_PYTHON" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 -r "$requirements" &&
    cp "$requirements" "$venv/installed.txt"
fi
if [[ ! -f $venv/installed.txt ]]; then
  warn "pip could not install $(paste -sd ' ' <(grep -v '^#' "$requirements")): tests that need them are SKIPPED"
fi

if [[ -z ${QATTRAIN_DATA:-} && -d $root/../shared/data ]]; then
  QATTRAIN_DATA=$(cd "$root/../shared/data" && pwd)
fi
if [[ -n ${QATTRAIN_DATA:-} ]]; then
  export QATTRAIN_DATA
else
  warn "QATTRAIN_DATA is not set: tests on real images are SKIPPED"
fi
# Tests run side by side, each with as many threads as there are cores: idle threads must sleep, not spin.
export OMP_WAIT_POLICY=passive

build() { # build PRESET TARGET...
  local preset=$1
  shift
  say "build $preset"
  if ! { cmake --preset "$preset" && cmake --build "build/$preset" --parallel "$(nproc)" --target "$@"; }; then
    fail "build $preset"
    return 1
  fi
}
run_tests() { # run_tests PRESET CTEST-ARGUMENTS...
  local preset=$1 log=build/$1/ctest.log
  shift
  say "tests $preset"
  ctest --test-dir "build/$preset" --parallel "$(nproc)" --output-on-failure --no-tests=error "$@" 2>&1 | tee "$log"
  (("${PIPESTATUS[0]}" == 0)) || fail "tests $preset"
  mapfile -t -O "${#summary[@]}" summary < <(
    sed -nE "s/^[[:space:]]*([0-9]+ - .*\((Skipped|Failed|Timeout|Not Run|SEGFAULT|Subprocess aborted|.*Exception.*)\)).*/$preset: \1/p" "$log"
    # Why: GoogleTest's line after "Skipped", pytest's and our scripts' own line.
    sed -nE '/: Skipped$/{n;p}; /^SKIPPED/p' "build/$preset/Testing/Temporary/LastTest.log" | sort | uniq -c |
      sed "s/^/$preset: SKIPPED/"
    sed -nE "s/^([0-9]+% tests passed.*)/$preset: \1/p" "$log"
  )
}

long=(-LE long)
if $full; then
  long=()
fi
build cpu all || finish
say "checks"
scripts/check.sh || fail "scripts/check.sh"
run_tests cpu "${long[@]}"

# Files without kernels are the same in both builds, so the rooms with kernels are what there is to test; and what
# only this build has: cuDNN's answers about our convolutions, and tests on a GPU, which are skipped where there is none.
if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then
  build cuda all && run_tests cuda -L '^(core|quant|support|gpu)$' -LE long
fi

if $full; then
  build asan all && run_tests asan -LE 'long|scripts'
  build tsan data_test distributed_test && run_tests tsan -L '^(data|distributed)$' -LE long
fi
finish
