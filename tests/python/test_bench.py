"""tests/python/test_bench.py -- the bookkeeping of scripts/bench/compare.py: who used the CPU, ratios, and its page."""

import os
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.environ["QATTRAIN_SOURCE_DIR"], "scripts", "bench"))
import compare  # noqa: E402
import contestants  # noqa: E402

BURN = "import time\nend = time.process_time() + {0}\nwhile time.process_time() < end: pass\n"


def test_cpu_time_of_children_counts_whether_they_live_or_not():
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys\n"
         f"subprocess.run([sys.executable, '-c', {BURN.format(0.3)!r}])\n"
         f"child = subprocess.Popen([sys.executable, '-c', {(BURN.format(0.3) + 'time.sleep(60)')!r}])\n"
         "print('started', flush=True)\nchild.wait()"], stdout=subprocess.PIPE)
    parent.stdout.readline()
    deadline = time.monotonic() + 30
    while contestants.tree_cpu_seconds(parent.pid) < 0.6 and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert contestants.tree_cpu_seconds(parent.pid) >= 0.6
    finally:
        subprocess.run(["pkill", "-P", str(parent.pid)], check=False)
        parent.kill()
        parent.wait()


class Turn:
    """Two seconds long; it uses 1.5 s of CPU time itself."""

    used = 0.0

    def run(self, steps):
        self.used += 1.5
        return {"ms": [1.0] * steps}

    def cpu_seconds(self):
        return self.used


def test_work_of_others_is_told_from_own_work(monkeypatch):
    clock, busy = iter([10.0, 12.0]), iter([100.0, 102.5])
    monkeypatch.setattr(compare.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(compare, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(compare.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(compare.os, "times", lambda: (0.0, 0.0))
    assert compare.one_turn(Turn(), 1)["others"] == pytest.approx((2.5 - 1.5) / (2.0 * 2))


def results(**rounds):
    entries = {name: {"batch": 128, "rounds": ms, "discarded": 1, "peak_mib": 100, "loss_first": 2.5, "loss_20": 2.0}
               for name, ms in rounds.items()}
    return {"machine": {"cpu": "C", "class": "B", "cores": 2, "date": "d", "jemalloc": True}, "threads": 2, "torch": "t",
            "busy": False, "cifar-resnet20": entries}


def test_ratios_are_peer_time_over_our_time_of_medians():
    data = results(lsq=[300.0, 400.0, 350.0])
    data["cifar-resnet20"]["qattrain qat"] = dict(data["cifar-resnet20"]["lsq"], rounds=[100.0, 1000.0, 100.0])
    data["cifar-resnet20"]["qattrain float"] = dict(data["cifar-resnet20"]["lsq"], rounds=[175.0])
    row = next(line for line in compare.table(data, False).splitlines() if line.startswith("| lsq "))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "350.0", "300.0, 400.0", "366", "100", "3.50, 2.00", "2.500, 2.000"]


def test_a_busy_machine_is_named():
    data = results(lsq=[300.0])
    assert "no measurement" not in compare.table(data, False)
    data["busy"] = True
    assert "no measurement" in compare.table(data, False)


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- training class B -->\nold\n<!-- end of training class B -->\nafter\n")
    compare.put_between_marks(page, "training class B", "new\n")
    assert page.read_text() == "before\n<!-- training class B -->\nnew\n<!-- end of training class B -->\nafter\n"
    with pytest.raises(SystemExit):
        compare.put_between_marks(page, "training class A", "new\n")


def test_the_page_has_the_marks_of_every_table():
    with open(os.path.join(os.environ["QATTRAIN_SOURCE_DIR"], "docs", "performance.md")) as file:
        page = file.read()
    for kind in ("training", "inference"):
        for machine in "AB":
            assert f"<!-- {kind} class {machine} -->" in page and f"<!-- end of {kind} class {machine} -->" in page
