"""tests/python/test_bench_epoch.py -- scripts/bench/epoch: its rates, its ratio and its exit code, with stand-ins for both programs."""

import os
import subprocess
import sys

import pytest

EPOCH = os.path.join(os.environ["QATTRAIN_SOURCE_DIR"], "scripts", "bench", "epoch")

BARE = """#!/bin/sh
echo "$@" >> {log}
echo '{{"images_per_second": 100.0, "loss": 1.0, "ms": [1.0]}}'
"""
QATTRAIN = """#!{python}
import os, sys
folder = os.path.join(sys.argv[sys.argv.index("--run-dir") + 1], sys.argv[sys.argv.index("--name") + 1])
os.makedirs(folder)
with open(os.path.join(folder, "metrics.jsonl"), "w") as file:
    for rate in {rates}:
        file.write('{{"step": 1, "epoch": 1, "train/images_per_second": %f}}\\n' % rate)
    file.write('{{"step": 9, "epoch": 1, "eval/top1": 50.0}}\\n')
sys.exit({code})
"""


def run(tmp_path, rates, code=0, *options):
    programs = {"bare": BARE.format(log=tmp_path / "calls"),
                "qattrain": QATTRAIN.format(python=sys.executable, rates=rates, code=code)}
    for name, text in programs.items():
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    return subprocess.run([sys.executable, EPOCH, "--step-bench", tmp_path / "bare", "--binary", tmp_path / "qattrain",
                           *options, "c.yaml", "train.batch=3"], capture_output=True, text=True)


def test_the_epochs_rate_is_all_pictures_over_all_seconds_without_the_first_line(tmp_path):
    done = run(tmp_path, [5.0, 80.0, 120.0], 0, "--rounds", "3", "--steps", "40")
    assert "bare 100.0, epoch 96.0 pictures/s, ratio 0.960" in done.stdout
    assert "median 0.960" in done.stdout and done.returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == [
        "40 c.yaml train.float.epochs=0 train.qat.epochs=1 train.batch=3"] * 3


def test_a_ratio_below_the_least_is_an_exit_code(tmp_path):
    assert run(tmp_path, [5.0, 94.0], 0, "--rounds", "1").returncode == 1
    assert run(tmp_path, [5.0, 94.0], 0, "--rounds", "1", "--least", "0.9").returncode == 0


@pytest.mark.parametrize("rates, code", [([5.0], 0), ([5.0, 96.0], 3)])
def test_a_run_that_ends_early_or_fails_is_no_measurement(tmp_path, rates, code):
    done = run(tmp_path, rates, code)
    assert done.returncode == 1 and "epoch:" in done.stderr and "median" not in done.stdout
