#!/usr/bin/env bash
# quickstart.sh [key=value ...] -- from a fresh Debian 12 to a trained int8 ResNet-18: installs the packages, builds
# the program, and runs configs/resnet18_int8.yaml to its end. Needs no GPU and no data set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install_packages.sh --build-only

preset=cpu
started=$SECONDS
cmake --preset "$preset" -DQATTRAIN_TESTS=OFF -DQATTRAIN_BENCH=OFF
cmake --build "build/$preset" --target qattrain --parallel "$(nproc)"
echo "built build/$preset/qattrain in $((SECONDS - started)) s"
exec "build/$preset/qattrain" configs/resnet18_int8.yaml "$@"
