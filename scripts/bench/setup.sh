#!/usr/bin/env bash
# setup.sh [FOLDER] -- the Python environment of the benchmarks' peers, outside the repository (default
# $QATTRAIN_BENCH_VENV, else ~/.cache/qattrain-bench/venv): PyTorch, ONNX Runtime, Brevitas, torchao, matplotlib.
#
# PyTorch comes from pip, the CPU wheels where their index can be reached, else the default ones (several GB). Where pip
# has none, Debian's python3-torch (1.13, of 2022) stands in, loudly: ratios against it say little about today's PyTorch.
set -euo pipefail

folder=${1:-${QATTRAIN_BENCH_VENV:-$HOME/.cache/qattrain-bench/venv}}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case $(realpath -m "$folder")/ in
  "$repository"/*) echo "setup.sh: $folder lies in the repository; name a folder outside" >&2 && exit 2 ;;
esac

if [[ ! -x $folder/bin/python ]]; then
  python3 -m venv "$folder"
fi
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

has() { "$folder/bin/python" -c "import $1" >/dev/null 2>&1; }

if ! has torch || ! has torchvision; then
  if ! pip install -q --retries 0 --timeout 20 --index-url https://download.pytorch.org/whl/cpu torch torchvision 2>/dev/null; then
    echo "setup.sh: the index of CPU wheels cannot be reached; taking pip's default torch, with its GPU libraries"
    pip install -q torch torchvision || true
  fi
fi
if ! has torch; then
  echo "setup.sh: !!! NO CURRENT PYTORCH FROM PIP: falling back to Debian's python3-torch 1.13 of 2022 !!!" >&2
  python3 -m venv --clear --system-site-packages "$folder"
  if ! has torch; then
    apt-get install -y -q --no-install-recommends python3-torch python3-torchvision
  fi
fi
for package in pillow matplotlib onnx onnxruntime torchao brevitas; do
  module=$package
  [[ $package == pillow ]] && module=PIL
  has "$module" || pip install -q "$package" || echo "setup.sh: no $package; its peers will be left out" >&2
done
"$folder/bin/python" - <<'PYTHON'
import importlib
for name in ("torch", "torchvision", "onnx", "onnxruntime", "torchao", "brevitas", "matplotlib"):
    try:
        print(name, importlib.import_module(name).__version__)
    except Exception as error:
        print(name, "missing:", error)
PYTHON
found=no
for jemalloc in /usr/lib/*/libjemalloc.so.2 /usr/lib64/libjemalloc.so.2; do
  [[ -e $jemalloc ]] && found=$jemalloc
done
echo "jemalloc: $found (Debian: apt-get install libjemalloc2)"
echo "$folder/bin/python"
