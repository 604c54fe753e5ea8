#!/usr/bin/env bash
# bundle.sh [--build-dir DIR] [--output FILE.tar.gz] [--as-built] -- packs what was built into one archive that runs on
# another x86-64 Linux: program, modules, test programs, benchmarks, configs, and the libraries they need.
#
#   --build-dir DIR   what to pack (default build/cuda where that is configured, else build/cpu)
#   --output FILE     default: DIR/qattrain-bundle.tar.gz
#   --as-built        do not build anything first; what was not built is left out
#
# Not in it, because they belong to the machine it runs on: glibc (at least the version printed at the end), the NVIDIA
# driver, CUDA 13's libraries (the bundle's `run` finds those of CUDA_HOME or of a PyTorch installation) and MPI, which has to
# be that of the machine's own mpirun. An archive of more than 60 MiB (QATTRAIN_BUNDLE_MIB) is refused: exit code 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2 && exit 2; }
fail() { echo "bundle.sh: $1" >&2 && exit 1; }

build='' output='' as_built=false
while (($#)); do
  case $1 in
    --build-dir | --output)
      (($# > 1)) || usage
      if [[ $1 == --output ]]; then output=$(realpath -m "$2"); else build=$2; fi
      shift 2
      ;;
    --as-built) as_built=true && shift ;;
    *) usage ;;
  esac
done
if [[ -z $build ]]; then
  build=build/cpu
  if [[ -f build/cuda/CMakeCache.txt ]]; then build=build/cuda; fi
fi
[[ -f $build/CMakeCache.txt ]] || fail "$build was not configured: cmake --preset cpu (or cuda)"
output=${output:-$(realpath "$build")/qattrain-bundle.tar.gz}
limit=${QATTRAIN_BUNDLE_MIB:-60}
mkdir -p "$(dirname "$output")"

if ! $as_built; then
  cmake --build "$build" --parallel "$(nproc)"
fi
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/qattrain
cmake --install "$build" --prefix "$root" --strip >"$stage/install.log" || fail "cmake --install failed: $(tail -n 3 "$stage/install.log")"
[[ -x $root/bin/qattrain ]] || fail "$build/qattrain was not built"

# ---- libraries ----------------------------------------------------------------------------------
system='^(linux-vdso|ld-linux[^.]*|libc|libm|libmvec|libpthread|libdl|librt|libresolv|libutil|libanl)\.so'
machine='^lib(cuda|cudart|cublas|cublasLt|cudnn[a-z_]*|nccl|nvrtc|nvJitLink|nvidia[a-z-]*|mpi)\.so'
mkdir -p "$root/lib"
collect() { # collect FILE: copies what it needs, and what that needs
  local name arrow path
  while read -r name arrow path _; do
    if [[ $name == */ld-linux* || $name =~ $system || $name =~ $machine || -e $root/lib/$name ]]; then continue; fi
    if [[ $arrow != '=>' || ! -f $path ]]; then fail "${1##*/} needs $name, which is not to be found"; fi
    cp -L "$path" "$root/lib/$name"
  done < <(ldd "$1")
}
for file in "$root"/bin/*; do
  # Of what MPI needs nothing is taken: it comes with the machine's MPI.
  if [[ $file != */qattrain_mpi.so ]]; then collect "$file"; fi
done
chmod u+w "$root"/lib/*
strip --strip-unneeded "$root"/lib/*

# ---- what programs, tests and benchmarks read ---------------------------------------------------
mkdir -p "$root/tests" "$root/docs" "$root/scripts"
cp -r configs "$root/"
cp -r tests/golden "$root/tests/"
cp docs/configuration.md "$root/docs/"
cp -r scripts/launch scripts/bench scripts/gpu_report.sh "$root/scripts/"
mkdir "$root/tests/gpu"
cp tests/gpu/compute_sanitizer.sh "$root/tests/gpu/"
rm -rf "$root/scripts/bench/kernels"
find "$root/scripts" -name __pycache__ -prune -exec rm -rf {} +
cp scripts/bundled_run.sh "$root/run"
ln -s run "$root/qattrain"
chmod 755 "$root/run"

glibc=$(objdump -T "$root"/bin/* "$root"/lib/* 2>/dev/null | grep -oE 'GLIBC_2\.[0-9]+' | sort -uV | tail -n 1)
cat >"$root/README.txt" <<TEXT
$("$root/bin/qattrain" --version=full)

./qattrain configs/smoke.yaml       the program
./run core_test                     a program in bin/, with CUDA's libraries on its way
./run --where                       which CUDA libraries are found, and where
scripts/gpu_report.sh               tests and timings on this machine's GPU, in one folder

Needs an x86-64 CPU with AVX2 and ${glibc/_/ } or newer. CUDA's libraries and MPI are the machine's own.
TEXT

# ---- the archive --------------------------------------------------------------------------------
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -cf - qattrain | gzip -6n >"$output.new"
bytes=$(stat -c %s "$output.new")
if ((bytes > limit * 1048576)); then
  du -k "$root"/bin/* "$root"/lib/* | sort -rn | head -n 8 >&2
  rm "$output.new"
  fail "the archive has $((bytes / 1048576)) MiB, more than $limit; the largest files, in KiB, are those above"
fi
mv "$output.new" "$output"
echo "$output: $((bytes / 1048576)) MiB; $(find "$root/bin" -type f | wc -l) programs and modules, $(find "$root/lib" -type f | wc -l) libraries; needs ${glibc/_/ }"
