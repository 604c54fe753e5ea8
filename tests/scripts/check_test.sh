#!/usr/bin/env bash
# check_test.sh -- scripts/check.sh finds each kind of breach in a small repository, and nothing in a clean one.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
command -v clang-format >/dev/null || { echo "SKIPPED: clang-format is not installed" && exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
failures=0

git init -q .
git config user.email test@example.com
git config user.name test
mkdir -p scripts core/base core/ops core/kernel quant data tests/core bin
cp "$root/scripts/check.sh" scripts/
cp "$root/.clang-format" .
# Neither needs to run for these rules, and both take long.
printf '#!/bin/sh\nexit 0\n' | tee bin/clang-tidy bin/shellcheck >bin/cmake
chmod +x bin/*
export PATH=$folder/bin:$PATH

write() { printf '// %s -- a file of the test.\n%b' "$1" "$2" >"$1"; } # write PATH TEXT
long_function() { # long_function HEAD END LINES-IN-ALL
  printf '%s\n' "$1"
  for ((i = 0; i < $3 - 2; i++)); do printf '%s  int x%d = 0;\n' "${2%%\}*}" "$i"; done
  printf '%s\n' "$2"
}
start() { # a clean tree
  rm -rf core/*/* quant/* data/* tests/core/*
  write core/base/error.h '#pragma once\n'
  write core/ops/ops.h '#pragma once\n#include "core/base/error.h"\n'
  write core/kernel/launch.h '#pragma once\n#pragma omp simd\n'
  write quant/lsq.cpp '#include "core/ops/ops.h"\n'
  write tests/core/a_test.cpp '#include "quant/lsq.h"\n'
  long_function 'void f(int a) {' '}' 60 >>tests/core/a_test.cpp
}
expect() { # expect STATUS TEXT WHAT: runs check.sh
  local output status
  output=$(bash scripts/check.sh 2>&1)
  status=$?
  if [[ $status != "$1" || $output != *"$2"* ]]; then
    printf 'FAILED: %s: expected exit code %s and "%s", got %s:\n%s\n' "$3" "$1" "$2" "$status" "$output"
    failures=$((failures + 1))
  fi
  start
}

start
expect 0 "ok: layering" "a clean tree"

write core/base/up.cpp '#include "quant/lsq.h"\n'
expect 1 'core/base/up.cpp:2: core/ may not include "quant/lsq.h"' "core includes quant"
write data/up.cpp '#include "quant/lsq.h"\n'
expect 1 'data/up.cpp:2: data/ may not include' "data includes quant"
write core/base/up.cpp '#include "core/ops/ops.h"\n'
expect 1 'core/base stands below core/ops' "base includes ops"
write core/base/near.cpp '#include "error.h"\n'
expect 1 'core/base/near.cpp:2:' "an include that does not start at the root"

long_function 'void f(int a) {' '}' 61 >>quant/lsq.cpp
expect 1 'quant/lsq.cpp:3: a function of 61 lines' "a long function"
{ printf 'struct S {\n' && long_function '  void f(int a) const {' '  }' 61 && printf '};\n'; } >>quant/lsq.cpp
expect 1 'quant/lsq.cpp:4: a function of 61 lines' "a long member function"
{ printf 'template <class T>\n' && long_function 'void f(T a) {' '}' 60; } >>quant/lsq.cpp
expect 1 'a function of 61 lines' "a long template"
for ((i = 0; i < 650; i++)); do echo 'int x;' >>quant/lsq.cpp; done
expect 1 'quant/lsq.cpp: 652 lines' "a long file"

echo 'int  x;' >>quant/lsq.cpp
expect 1 '1 quant/lsq.cpp' "a file that is not formatted"
echo 'int x;' >quant/lsq.cpp
expect 1 "quant/lsq.cpp:1: must open with" "a file without its sentence"
write quant/lsq_helper.cpp ''
expect 1 "quant/lsq_helper.cpp: a name that says nothing" "a name that says nothing"
echo '// TO''DO: later' >>quant/lsq.cpp
expect 1 'finish it or file it' "work left undone"
printf '#pragma omp parallel\n' >>quant/lsq.cpp
expect 1 'launches belong to core/kernel' "a launch outside core/kernel"
printf 'int* x = new int[3];\n' >>quant/lsq.cpp
expect 1 'own it with a smart pointer' "an owning raw pointer"

# What the change did is counted against the last commit.
git add -A && git commit -qm first
printf 'int x;\nint y;\n' >>quant/lsq.cpp
expect 0 '+2      0' "two added lines"

((failures == 0)) && echo "all passed"
exit $((failures > 0))
