#!/usr/bin/env bash
# run_pytest.sh FILE -- runs one file of Python tests; exit code 77 (skipped) where no Python with pytest is at hand.
file=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${QATTRAIN_PYTHON:-$root/build/venv/bin/python}
if ! "$python" -c 'import pytest' 2>/dev/null; then
  echo "SKIPPED: '$python' has no pytest; scripts/test.sh makes that environment where pip reaches an index"
  exit 77
fi
exec "$python" -m pytest -q -rs -p no:cacheprovider "$file"
