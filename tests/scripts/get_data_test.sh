#!/usr/bin/env bash
# get_data_test.sh -- scripts/get_data.sh against a small archive served from file://.
set -uo pipefail
script=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/scripts/get_data.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset QATTRAIN_DATA_MD5
failures=0

expect() { # expect WHAT ACTUAL EXPECTED
  if [[ $2 != "$3" ]]; then
    echo "FAILED: $1: got '$2', expected '$3'"
    failures=$((failures + 1))
  fi
}
run() { # run ARGUMENTS...: sets status and output
  output=$(bash "$script" "$@" 2>&1)
  status=$?
}

mkdir -p "$folder/mirror" "$folder/source/cifar-10-batches-bin"
head -c 200000 /dev/urandom >"$folder/source/cifar-10-batches-bin/test_batch.bin"
archive=$folder/mirror/cifar-10-binary.tar.gz
tar -czf "$archive" -C "$folder/source" cifar-10-batches-bin
export QATTRAIN_DATA_URL=file://$folder/mirror
md5=$(md5sum "$archive" | cut -d ' ' -f 1)
same_bytes() { cmp -s "$folder/source/cifar-10-batches-bin/test_batch.bin" "$1/cifar-10-batches-bin/test_batch.bin" && echo yes; }

# The official checksum does not fit our archive: refused, removed, and nothing unpacked.
run cifar10 "$folder/wrong"
expect "exit code on a wrong checksum" "$status" 3
[[ $output == *"expected c32a1d4ab5d03f1284b67883e8d87530"* ]] || expect "message on a wrong checksum" "$output" "both checksums"
expect "what a wrong checksum leaves behind" "$(ls -A "$folder/wrong")" ""

export QATTRAIN_DATA_MD5=$md5
run cifar10 "$folder/right"
expect "exit code" "$status" 0
expect "unpacked bytes" "$(same_bytes "$folder/right")" yes
expect "what is left in the folder" "$(ls -A "$folder/right")" cifar-10-batches-bin

# A second run finds it there and needs no source.
QATTRAIN_DATA_URL=file:///nowhere run cifar10 "$folder/right"
expect "exit code when it is there" "$status" 0

# A transfer that broke off goes on where it stopped; one that broke off at the last byte needs no source.
# (A first part with a wrong byte shows that it is really used: refused, and the next run starts anew.)
mkdir -p "$folder/resumed" "$folder/complete" "$folder/damaged"
{ printf 'x' && head -c 70000 "$archive" | tail -c +2; } >"$folder/damaged/cifar-10-binary.tar.gz.part"
run cifar10 "$folder/damaged"
expect "exit code after resuming a damaged part" "$status" 3
run cifar10 "$folder/damaged"
expect "exit code of the run after that" "$status" 0
head -c 70000 "$archive" >"$folder/resumed/cifar-10-binary.tar.gz.part"
run cifar10 "$folder/resumed"
expect "exit code after resuming" "$status" 0
expect "bytes after resuming" "$(same_bytes "$folder/resumed")" yes
cp "$archive" "$folder/complete/cifar-10-binary.tar.gz.part"
QATTRAIN_DATA_URL=file:///nowhere run cifar10 "$folder/complete"
expect "exit code with a complete part" "$status" 0

QATTRAIN_DATA_URL=file:///nowhere run cifar10 "$folder/absent"
expect "exit code when the source is missing" "$status" 1
[[ $output == *"could not fetch file:///nowhere"* ]] || expect "message when the source is missing" "$output" "could not fetch"
run cifar11 "$folder/right"
expect "exit code on an unknown data set" "$status" 2
run cifar10
expect "exit code without a folder" "$status" 2

# A right checksum on the wrong content (the other data set's archive): refused, nothing unpacked.
cp "$archive" "$folder/mirror/cifar-100-binary.tar.gz"
run cifar100 "$folder/other"
expect "exit code on an archive without the data set" "$status" 1
[[ -e $folder/other/cifar-100-binary ]] && expect "folder after a bad archive" exists absent

((failures == 0)) && echo "all passed"
exit $((failures > 0))
