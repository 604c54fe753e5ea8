"""tests/python/test_scaling.py -- scripts/bench/scaling: what it reads of runs, its table, and what it warns of."""

import importlib.util
import os
from importlib.machinery import SourceFileLoader

import pytest

SCRIPT = os.path.join(os.environ["QATTRAIN_SOURCE_DIR"], "scripts", "bench", "scaling")
loader = SourceFileLoader("bench_scaling", SCRIPT)
scaling = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_scaling", loader))
loader.exec_module(scaling)


def a_round(rate, communication=0.2, hidden=0.5, threads=1, gpus=0):
    return {"rate": rate, "communication": communication, "hidden": hidden, "threads": threads, "gpus": gpus}


def rows(*lines):
    return [scaling.row_of(ranks, rounds) for ranks, rounds in lines]


def test_the_last_line_with_a_rate_counts():
    metrics = ('{"step":5,"train/images_per_second":10,"distributed/communication":0.5,"distributed/hidden":0.1}\n'
               '{"step":10,"train/images_per_second":30,"distributed/communication":0.25,"distributed/hidden":0.75}\n'
               '{"step":10,"eval/top1":50}\n')
    assert scaling.last_values(metrics) == {"rate": 30, "communication": 0.25, "hidden": 0.75}
    assert scaling.last_values('{"train/images_per_second":7}\n') == {"rate": 7, "communication": None, "hidden": None}
    with pytest.raises(ValueError, match="images_per_second"):
        scaling.last_values('{"eval/top1":50}\n')


def test_threads_and_gpus_are_those_that_the_run_names():
    assert scaling.threads_of("resnet20; 3 epochs qat, 390 steps an epoch, 12 threads on each of 2 processes (mpi)") == 12
    assert scaling.gpus_of("x: 8 ranks on 4 GPUs: gradients are summed through host memory: why", 8) == 4
    assert scaling.gpus_of("x: 2 ranks on 1 GPU: gradients", 2) == 1
    assert scaling.gpus_of("390 steps an epoch, 2 threads, on cuda:0", 1) == 1
    assert scaling.gpus_of("390 steps an epoch, 2 threads", 1) == 0


def test_a_row_is_the_median_of_its_rounds():
    row = scaling.row_of(2, [a_round(10, hidden=0.1), a_round(1000, hidden=0.9), a_round(30, hidden=0.3)])
    assert (row["rate"], row["hidden"], row["spread"]) == (30, 0.3, (10, 1000))
    assert scaling.row_of(1, [a_round(10, None, None)])["communication"] is None


def test_efficiency_is_of_a_core_or_gpu_in_use():
    # One process has two threads, the others one each: the same two cores for all.
    same_cores = rows((1, [a_round(100, threads=2)]), (2, [a_round(90)]), (4, [a_round(60)]))
    assert scaling.efficiencies(same_cores, 2) == pytest.approx([1, 0.9, 0.6])
    # Each rank brings a core of its own.
    assert scaling.efficiencies(rows((1, [a_round(100)]), (4, [a_round(300)])), 16) == pytest.approx([1, 0.75])
    gpus = rows((1, [a_round(100, threads=16, gpus=1)]), (8, [a_round(720, threads=2, gpus=8)]))
    assert scaling.efficiencies(gpus, 16) == pytest.approx([1, 0.9])


def test_more_ranks_than_cores_are_named():
    some = rows((1, [a_round(100, threads=2)]), (2, [a_round(90)]), (4, [a_round(60)]))
    assert [w.split(":")[0] for w in scaling.warnings(some, 2)] == ["4 ranks are more than the 2 cores of this machine"]
    assert scaling.warnings(some, 4) == []
    shared = rows((2, [a_round(90, gpus=1)]))
    assert scaling.warnings(shared, 16)[0].startswith("2 ranks share 1 GPU: ")


def test_the_report_replaces_what_is_between_the_marks():
    some = rows((1, [a_round(100, None, None, threads=2)]), (4, [a_round(60), a_round(62)]))
    text = scaling.report(some, 2, "scripts/bench/scaling X")
    assert "| 1 | 1 x 2 threads, 2 cores | 100.0 | 100.0, 100.0 | 1.00 | - | - |" in text
    assert "| 4 | 4 x 1 threads, 2 cores | 61.0 | 60.0, 62.0 | 0.61 | 20.0 % | 50.0 % |" in text
    assert "**4 ranks are more than the 2 cores" in text and "`scripts/bench/scaling X`" in text
    page = f"before\n{scaling.BEGIN}\nold\n{scaling.END}\nafter\n"
    assert scaling.replaced(page, text) == f"before\n{scaling.BEGIN}\n{text}{scaling.END}\nafter\n"
    with pytest.raises(ValueError, match="scaling"):
        scaling.replaced("a page without marks", text)


def test_more_ranks_than_cores_are_allowed_to_mpirun(monkeypatch):
    monkeypatch.delenv("MPIRUN_OPTIONS", raising=False)
    assert scaling.environment(2, 2) is None
    assert scaling.environment(4, 2)["MPIRUN_OPTIONS"] == "--oversubscribe"
    monkeypatch.setenv("MPIRUN_OPTIONS", "--hostfile hosts")
    assert scaling.environment(4, 2)["MPIRUN_OPTIONS"] == "--hostfile hosts"


def test_overrides_and_options_mix():
    options = scaling.arguments(["c.yaml", "--ranks", "1,2", "--steps", "6", "a.b=1", "c=2"])
    assert (options.config, options.ranks, options.steps) == ("c.yaml", [1, 2], 6)
    assert options.overrides == ["a.b=1", "c=2"]
    with pytest.raises(SystemExit):
        scaling.arguments(["c.yaml", "--steps", "1"])
