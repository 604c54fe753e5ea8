"""tests/python/test_bench_gpu.py -- scripts/bench/gpu: its tables, what it says without a GPU, and a tiny run on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader

import pytest

SOURCE = os.environ["QATTRAIN_SOURCE_DIR"]
SCRIPT = os.path.join(SOURCE, "scripts", "bench", "gpu")
sys.path.insert(0, os.path.dirname(SCRIPT))
loader = SourceFileLoader("bench_gpu", SCRIPT)
gpu = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_gpu", loader))
loader.exec_module(gpu)


def entry(*ms, batch=256):
    return {"batch": batch, "rounds": list(ms), "waiting": [0.1, 0.3], "peak_mib": 1000.0, "loss_first": 2.5, "loss_20": 2.0,
            "states": []}


def results(**nets):
    return {"device": "cuda", "gpu": {"name": "G", "driver_version": "1"}, "gpu_name": "G", "torch": "t", "cuda": "13",
            "date": "d", "steps": 50, "version": "qattrain v", "nets": nets}


def test_ratios_are_peer_time_over_our_qat_time_of_medians():
    entries = {"qattrain qat": entry(10.0, 100.0, 8.0), "bf16": entry(15.0, 14.0, 500.0), "lsq-bf16-compiled": entry()}
    assert gpu.ratio(entries, "bf16") == pytest.approx(1.5)
    assert gpu.ratio(entries, "lsq-bf16-compiled") is None and gpu.ratio(entries, "bf16-graphs") is None
    row = next(line for line in gpu.table(results(**{"cifar-resnet20": entries})).splitlines() if "`bf16`" in line)
    assert [cell.strip() for cell in row.split("|")[3:-1]] == [
        "15.00", "14.00, 500.00", str(round(256e3 / 15)), "1000", "1.50", "20 %", "2.500, 2.000"]


def test_goals_tell_what_must_be_from_what_is_wanted():
    def verdict(net, peer, theirs):
        text = gpu.goals(results(**{net: {"qattrain qat": entry(100.0), peer: entry(theirs)}}))
        return text.splitlines()[-1].split("|")[-2].strip() if text else None

    assert verdict("imagenet-resnet50", "bf16", 120.0) == "reached"
    assert verdict("imagenet-resnet50", "bf16", 105.0) == "only what must be"
    assert verdict("imagenet-resnet50", "bf16", 95.0) == "MISSED"
    assert verdict("imagenet-resnet18", "lsq-native-bf16", 300.0) == "reached"
    assert verdict("cifar-resnet20", "lsq-native-bf16", 300.0) == "MISSED"
    assert verdict("imagenet-resnet18", "lsq-bf16-compiled", 80.0) == "MISSED"
    assert verdict("cifar-resnet20", "bf16", 300.0) is None


def test_losses_are_means_of_the_same_steps_on_both_sides():
    class Theirs:
        first = {"loss": [float(i) for i in range(1, 21)]}

    ours = gpu.Ours.__new__(gpu.Ours)
    ours.first = {"loss": [3.0, 8.0, 13.0, 18.0, 23.0]}
    assert gpu.losses(Theirs()) == gpu.losses(ours) == (3.0, 18.0)


def test_single_layers_are_compared_forward_with_forward():
    net, shape = "imagenet_resnet50", "256x56x56x64 -> 64 1x1"
    rows = [{"name": f"{net}/{shape}/forward_codes/manual_time", "real_time": 0.5, "label": "int8 kernel"},
            {"name": f"{net}/{shape}/forward_bf16/manual_time", "real_time": 1.0, "label": "bf16 kernel"},
            {"name": f"{net}/{shape}/backward_data_bf16/manual_time", "real_time": 3.0, "label": "another"},
            {"name": f"{net}/norm_act [256, 56, 56, 64] codes residual/forward/manual_time", "real_time": 0.2, "of_copy": 0.87}]
    text = gpu.layers({"context": {"copy bandwidth, GB/s": "2000.4"}, "benchmarks": rows})
    assert f"| {net} | {shape} | 0.500 | 1.000 | 3.000, - | 2.00 | int8 kernel; bf16 kernel |" in text
    assert "| [256, 56, 56, 64] residual | forward | 0.200 | 87 % |" in text and "2000 GB/s" in text


def test_single_layers_come_from_several_files_too(tmp_path):
    paths = []
    for i, net in enumerate(["cifar_resnet20", "imagenet_resnet50"]):
        row = {"name": f"{net}/256x8x8x64 -> 64 3x3/forward_codes/iterations:1/manual_time", "real_time": 0.5 + i, "label": "k"}
        paths.append(tmp_path / f"{net}.json")
        paths[-1].write_text(json.dumps({"context": {"copy bandwidth, GB/s": "2000"}, "benchmarks": [row]}))
    text = gpu.measured_layers(gpu.parse(["--kernels", *map(str, paths)]))
    assert "| cifar_resnet20 | 256x8x8x64 -> 64 3x3 | 0.500 " in text and "| imagenet_resnet50 | 256x8x8x64 -> 64 3x3 | 1.500 " in text


def test_single_layers_that_cannot_be_measured_are_said_to_be_so(tmp_path):
    program = tmp_path / "gpu_bench"
    program.write_text("#!/bin/sh\necho 'no GPU here' >&2\nexit 3\n")
    program.chmod(0o755)
    text = gpu.measured_layers(gpu.parse(["--kernels", str(program)]))
    assert text == "Single layers: not measured; gpu_bench ended with 3: no GPU here\n"


def test_pictures_are_drawn_once_and_are_those_of_their_class(tmp_path):
    numpy = pytest.importorskip("numpy")
    folder = str(tmp_path / "pictures")
    gpu.draw_pictures(folder, 16, 10, 40)
    files = sorted((tmp_path / "pictures" / "train" / "03").iterdir())
    assert len(files) == 4 and len(list((tmp_path / "pictures" / "test").iterdir())) == 10
    pixels = [numpy.frombuffer(f.read_bytes()[-16 * 16 * 3:], numpy.uint8).astype(float) for f in files]
    other = numpy.frombuffer((tmp_path / "pictures" / "train" / "07" / "00007.ppm").read_bytes()[-16 * 16 * 3:],
                             numpy.uint8).astype(float)
    assert numpy.abs(pixels[0] - pixels[1]).mean() < numpy.abs(pixels[0] - other).mean()
    before = files[0].stat().st_mtime_ns
    gpu.draw_pictures(folder, 16, 10, 40)
    assert files[0].stat().st_mtime_ns == before


def run(tmp_path, *arguments, **environment):
    return subprocess.run([sys.executable, SCRIPT, "--work", str(tmp_path), *arguments], capture_output=True, text=True,
                          env=dict(os.environ, **environment), check=False)


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    pytest.importorskip("torch")
    done = run(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3 and "nothing was measured" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_it_refuses(tmp_path):
    assert run(tmp_path, "--steps", "7").returncode == 2
    assert "for measurements" in run(tmp_path, "--device", "cpu", "--page", "x.md").stderr


def test_all_of_it_runs_on_the_cpu_with_tiny_batches(tmp_path):
    pytest.importorskip("torch")
    done = run(tmp_path, "--device", "cpu", "--binary", os.environ["QATTRAIN_BINARY"], "--nets", "cifar-resnet20",
               "--threads", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "results-cpu.json") as file:
        entries = json.load(file)["nets"]["cifar-resnet20"]
    assert set(entries) == {"qattrain qat", "qattrain float", "bf16", "lsq-native-bf16"}, done.stdout
    for name, e in entries.items():
        assert len(e["rounds"]) == 1 and 0 < e["loss_20"] < 5, name
    assert entries["qattrain qat"]["loss_20"] < entries["qattrain qat"]["loss_first"]
    assert "no measurement" in done.stdout


def test_the_page_has_the_marks_of_its_table():
    with open(os.path.join(SOURCE, "docs", "performance.md")) as file:
        page = file.read()
    assert "<!-- training on a GPU -->" in page and "<!-- end of training on a GPU -->" in page
