#!/usr/bin/env bash
# install_packages.sh -- installs the Debian packages that building and testing need; does nothing when all are there.
set -euo pipefail

packages=(
  # tools
  g++ cmake ninja-build git ca-certificates curl xz-utils
  # libraries of the program; oneDNN's package links OpenCL's loader
  libdnnl-dev ocl-icd-libopencl1 libyaml-cpp-dev libcli11-dev libfmt-dev libspdlog-dev
  nlohmann-json3-dev libturbojpeg0-dev libspng-dev libxxhash-dev
  # training on several processes; the build leaves it out where there is no MPI
  libopenmpi-dev openmpi-bin
)
test_packages=(
  libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev libboost-context-dev
  python3 python3-venv python3-pil
  clang-format clang-tidy libomp-dev
)

usage() {
  echo "usage: scripts/install_packages.sh [--build-only]   (--build-only leaves out what only tests need)"
}

case "${1:-}" in
  "") packages+=("${test_packages[@]}") ;;
  --build-only) ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "install_packages.sh: not a Debian system; install these by hand: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install_packages.sh: needs root for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -q --no-install-recommends "${missing[@]}"
