#!/usr/bin/env bash
# bundle_test.sh -- scripts/bundle.sh of what is built: unpacked elsewhere it runs on its own libraries alone, and its `run`
# finds CUDA's. QATTRAIN_BINARY names the program of the build (default: build/cpu/qattrain).
set -uo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
binary=${QATTRAIN_BINARY:-$source/build/cpu/qattrain}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

expect() { # expect WHAT ACTUAL EXPECTED
  if [[ $2 != "$3" ]]; then
    echo "FAILED: $1: got '$2', expected '$3'"
    failures=$((failures + 1))
  fi
}
bundle() { bash "$source/scripts/bundle.sh" --as-built --build-dir "$(dirname "$binary")" "$@" 2>&1; }
bare() { env -i PATH=/usr/bin:/bin HOME="$folder" "$@"; } # no LD_LIBRARY_PATH, no QATTRAIN_DATA

said=$(bundle --output "$folder/first/bundle.tar.gz") || { echo "FAILED: $said" && exit 1; }
echo "$said"
mkdir -p "$folder/elsewhere"
tar -xzf "$folder/first/bundle.tar.gz" -C "$folder/elsewhere" || exit 1
root=$folder/elsewhere/qattrain

expect "version" "$(bare "$root/qattrain" --version)" "$(bare "$binary" --version)"
smoke=(data.train_images=64 data.test_images=20 --no-progress)
bare "$root/qattrain" "$root/configs/smoke.yaml" "${smoke[@]}" --run-dir "$folder/runs" >"$folder/smoke.log" 2>&1
expect "exit code of a run ($(tail -n 1 "$folder/smoke.log"))" $? 0
expect "what the run wrote" "$(cd "$folder/runs/smoke/export" && echo *.qat)" "best.qat model.qat"

# Every library is one of the bundle, of glibc, or CUDA's; the MPI module's are those of the machine's MPI.
outside() { # outside FILE: what it would load from elsewhere
  bare ldd "$1" | grep -vE '^\s*(linux-vdso|/lib64/ld-linux)|^\s*(libc|libm|libmvec|libpthread|libdl|librt|libcu[a-zA-Z]*|libnccl|libnv[a-zA-Z]*)\.so' |
    grep -vF "=> $root/" | sed 's/^[[:space:]]*//'
}
looked_at=0
for file in "$root"/bin/*; do
  [[ $file == */qattrain_mpi.so ]] && continue
  expect "libraries of ${file##*/} from outside" "$(outside "$file")" ""
  looked_at=$((looked_at + 1))
done
((looked_at > 0)) || expect "files that were looked at" "$looked_at" "at least one"

# A Linux that has glibc and nothing else.
if ((EUID == 0)) && chroot / true 2>/dev/null; then
  system=$folder/bare_system
  mkdir -p "$system/lib64" "$system/lib/x86_64-linux-gnu" "$system/tmp"
  for library in ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1; do
    path=$(ldconfig -p | sed -n "s|.*$library .*x86-64.*=> ||p" | head -n 1)
    [[ -n $path ]] && cp -L "$path" "$system/lib/x86_64-linux-gnu/"
  done
  cp "$system/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$system/lib64/"
  cp -r "$root" "$system/qattrain"
  bare chroot "$system" /qattrain/bin/qattrain /qattrain/configs/smoke.yaml "${smoke[@]}" --run-dir /tmp/runs >"$folder/bare.log" 2>&1
  expect "a run where there is glibc only ($(tail -n 1 "$folder/bare.log"))" $? 0
fi

# `run`: programs, and where CUDA's libraries are looked for.
# shellcheck disable=SC2016  # the script itself expands it
printf '#!/bin/sh\necho "$LD_LIBRARY_PATH|$QATTRAIN_SOURCE_DIR|$*"\n' >"$root/bin/print_path"
chmod +x "$root/bin/print_path"
mkdir -p "$folder/cuda/lib64" "$folder/site/nvidia/cudnn/lib" "$folder/site/nvidia/cu13/lib" "$folder/first_in_line"
touch "$folder/cuda/lib64/libcublasLt.so.13" "$folder/site/nvidia/cudnn/lib/libcudnn.so.9" \
  "$folder/site/nvidia/cu13/lib/libcublasLt.so.13" "$folder/first_in_line/libcudnn.so.9"
where() { # where LIBRARY VARIABLE=VALUE...
  bare env "${@:2}" "$root/run" --where | sed -n "s|^$1: ||p"
}
torch=PYTHONPATH=$folder/site
expect "cublasLt of CUDA_HOME" "$(where libcublasLt.so.13 CUDA_HOME="$folder/cuda" "$torch")" "$folder/cuda/lib64"
expect "cublasLt of PyTorch" "$(where libcublasLt.so.13 "$torch")" "$folder/site/nvidia/cu13/lib"
expect "cudnn of PyTorch" "$(where libcudnn.so.9 CUDA_HOME="$folder/cuda" "$torch")" "$folder/site/nvidia/cudnn/lib"
expect "cudnn of LD_LIBRARY_PATH" "$(where libcudnn.so.9 LD_LIBRARY_PATH="$folder/first_in_line" "$torch")" "$folder/first_in_line"
expect "a Python that is not there" "$(where libnccl.so.2 QATTRAIN_PYTHON=/nowhere/python CUDA_HOME="$folder/cuda" | grep -c .)" 1
said=$(bare env CUDA_HOME="$folder/cuda" "$torch" "$root/run" print_path a 'b c')
case $said in
  "$folder/cuda/lib64:"*"$folder/site/nvidia/cudnn/lib"*"|$root|a b c") ;;
  *) expect "what a program gets" "$said" "$folder/cuda/lib64:...:$folder/site/nvidia/cudnn/lib...|$root|a b c" ;;
esac
bare "$root/run" no_such_program >"$folder/said" 2>&1
expect "exit code for a program that is not there" $? 2
grep -q 'it holds: .*print_path' "$folder/said" || expect "what is said then" "$(cat "$folder/said")" "the programs"

# Too large: refused, and nothing is left behind.
said=$(QATTRAIN_BUNDLE_MIB=1 bundle --output "$folder/first/large.tar.gz")
expect "exit code of a bundle that is too large" $? 1
[[ $said == *"more than 1;"* && $said == *libdnnl* ]] || expect "what is said of it" "$said" "its size and largest files"
expect "what it leaves behind" "$(cd "$folder/first" && echo *)" bundle.tar.gz

((failures == 0)) && echo "all passed"
exit $((failures > 0))
