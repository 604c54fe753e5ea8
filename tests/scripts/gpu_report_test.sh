#!/usr/bin/env bash
# gpu_report_test.sh -- scripts/gpu_report.sh: its answer where there is no GPU, and with programs that only pretend, what it
# runs, writes down and exits with. Nothing here is a result of a GPU.
set -uo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

expect() { # expect WHAT ACTUAL EXPECTED
  if [[ $2 != "$3" ]]; then
    echo "FAILED: $1: got '$2', expected '$3'"
    failures=$((failures + 1))
  fi
}
expect_line() { # expect_line WHAT TEXT PATTERN
  grep -qE "$3" <<<"$2" || { echo "FAILED: $1: no line '$3' in: $2" && failures=$((failures + 1)); }
}
report() { bash "$source/scripts/gpu_report.sh" "$@" 2>&1; }
pretend() { # pretend PROGRAM <<<SCRIPT: a program of the build
  { echo '#!/usr/bin/env bash' && cat; } >"$folder/build/$1"
  chmod +x "$folder/build/$1"
}
mkdir "$folder/build"

said=$(report --build-dir "$folder/build" --output "$folder/none")
expect "exit code without a program" $? 2
expect_line "without a program" "$said" "there is no $folder/build/qattrain"
report --minutes soon >/dev/null
expect "exit code of an argument that means nothing" $? 2

for answer in "not in this build" "no device"; do
  pretend qattrain <<<"echo 'CUDA: $answer'"
  said=$(report --build-dir "$folder/build" --output "$folder/none")
  expect "exit code where CUDA is '$answer'" $? 3
  expect_line "where CUDA is '$answer'" "$said" "$answer.*there is no GPU.*nothing was run"
done
expect "folder where there is no GPU" "$([[ -e $folder/none ]] && echo made)" ""

pretend qattrain <<<"echo 'CUDA: 1 device'; if [[ \$1 == doctor ]]; then echo 'integer convolution: a kernel'; fi"
pretend gpu_test <<<"echo gpu_test \"\$@\""
pretend gpu_bench <<<"echo 'gpu_bench: nothing can be measured'; exit 3"
said=$(QATTRAIN_PYTHON=/nonexistent report --build-dir "$folder/build" --output "$folder/good")
expect "exit code where all passes or is skipped" $? 0
summary=$(cat "$folder/good/summary.md")
expect_line "doctor" "$summary" '^\| doctor \| passed '
expect_line "who convolves" "$summary" '^\| integer convolution \| a kernel \|'
expect_line "tests" "$summary" '^\| tests \| passed \| [0-9]+ \| tests.log \|$'
expect_line "training" "$summary" '^\| training \| passed '
for net in cifar_resnet20 imagenet_resnet50; do
  expect_line "kernels" "$summary" "^\| kernels_$net \| skipped: gpu_bench: nothing can be measured "
done
expect_line "PyTorch" "$summary" '^\| pytorch \| skipped: /nonexistent has no PyTorch '
for tool in memcheck racecheck initcheck synccheck; do expect_line "$tool" "$summary" "^\| $tool \| "; done
expect_line "the tests' own log" "$(cat "$folder/good/tests.log")" "gtest_output=xml:$folder/good/tests.xml"
expect "machine" "$(head -n 1 "$folder/good/machine.txt")" "CUDA: 1 device"

# The comparison with PyTorch: what is asked for, of the networks asked for, in that order.
pretend python <<<"echo \"\$@\""
QATTRAIN_PYTHON=$folder/build/python report --build-dir "$folder/build" --output "$folder/peers" \
  --bench "--peers bf16 --rounds 2" --nets "cifar-resnet20 imagenet-resnet18" >/dev/null
expect "exit code with a comparison" $? 0
expect "networks" "$(sed -n 's/^| pytorch_\(.*\) | passed .*/\1/p' "$folder/peers/summary.md" | paste -sd ' ')" \
  "cifar-resnet20 imagenet-resnet18"
expect_line "arguments" "$(cat "$folder/peers/pytorch_cifar-resnet20.log")" \
  "^scripts.* --nets cifar-resnet20 .*--pictures $folder/peers/pictures --peers bf16 --rounds 2$"

pretend gpu_test <<<"exit 1"
said=$(report --quick --build-dir "$folder/build" --output "$folder/bad")
expect "exit code where tests fail" $? 1
expect_line "tests that fail" "$(cat "$folder/bad/summary.md")" '^\| tests \| FAILED: exit code 1 '
expect_line "what comes after them" "$(cat "$folder/bad/summary.md")" '^\| training \| passed '
expect "compute-sanitizer with --quick" "$(grep -c memcheck "$folder/bad/summary.md")" 0

pretend gpu_test <<<"sleep 30"
said=$(report --quick --total 3s --build-dir "$folder/build" --output "$folder/short")
summary=$(cat "$folder/short/summary.md")
expect_line "a step that takes all the time" "$summary" '^\| tests \| FAILED: not done after [0-9]+ seconds '
expect_line "what comes after it" "$summary" '^\| training \| skipped: 3 seconds are over '

# A gpu_test that has no GPU is skipped by the sanitizers' script.
pretend gpu_test <<<"echo 'no CUDA device: nothing of this test has run'"
said=$(bash "$source/tests/gpu/compute_sanitizer.sh" memcheck "$folder/build/gpu_test")
expect "exit code of compute_sanitizer.sh without a GPU" $? 77
expect "its line" "$said" "SKIPPED: no CUDA device: nothing was checked by memcheck"

if ((failures > 0)); then exit 1; fi
echo "gpu_report_test: all passed"
