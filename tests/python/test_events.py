"""tests/python/test_events.py -- our event files, read by the real tensorboard package."""

import math
import os
import pathlib
import shutil
import subprocess

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing import (
    event_accumulator,
    event_file_loader,
    plugin_event_accumulator,
)
from tensorboard.util import tensor_util

BUILD = pathlib.Path(os.environ.get("QATTRAIN_BINARY", "build/cpu/qattrain")).parent
PROGRAM = BUILD / "train_test"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built")
    folder = tmp_path_factory.mktemp("events")
    subprocess.run(
        [PROGRAM, "--gtest_filter=EventWriter.WritesASampleForOtherPrograms"],
        env={**os.environ, "QATTRAIN_SAMPLE_DIR": str(folder)},
        check=True,
    )
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(run):
    # What the TensorBoard server itself reads with; size 0 keeps every point.
    accumulator = plugin_event_accumulator.EventAccumulator(
        str(run), size_guidance={plugin_event_accumulator.TENSORS: 0}
    )
    accumulator.Reload()
    return accumulator


def values(loaded, tag):
    return [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in loaded.Tensors(tag)]


def test_both_files_load_to_their_ends(run):
    first, second = sorted(run.iterdir())
    assert sum(1 for _ in event_file_loader.EventFileLoader(str(first)).Load()) == 109
    assert sum(1 for _ in event_file_loader.EventFileLoader(str(second)).Load()) == 12


def test_scalars_of_a_resumed_run_are_one_curve(loaded):
    curve = [(step, float(value)) for step, value in values(loaded, "train/loss")]
    assert curve == [(s, 100.0 - s) for s in range(60)] + [(s, -float(s)) for s in range(60, 70)]
    assert [e.wall_time for e in loaded.Tensors("train/loss")][:2] == [1000.5, 1001.5]
    assert loaded.SummaryMetadata("train/loss").plugin_data.plugin_name == "scalars"


def test_the_older_reader_loads_them_too(run):
    accumulator = event_accumulator.EventAccumulator(str(run))
    accumulator.Reload()
    assert "train/loss" in accumulator.Tags()["tensors"]
    assert accumulator.file_version == 2.0


def test_the_file_version_and_start_time_are_known(loaded):
    assert loaded.file_version == 2.0
    assert loaded.FirstEventTimestamp() == 1000.0


def test_odd_numbers_and_names(loaded):
    assert set(loaded.Tags()["tensors"]) >= {"odd/nan", "odd/inf", "odd/täg", "weights", "config"}
    assert "odd/nan" in loaded.PluginTagToContent("scalars")


def test_nan_infinity_and_large_steps(run):
    found = {}
    for event in event_file_loader.EventFileLoader(str(sorted(run.iterdir())[0])).Load():
        for value in event.summary.value:
            if value.tag.startswith("odd/"):
                found[value.tag] = (event.step, float(tensor_util.make_ndarray(value.tensor)))
    assert math.isnan(found["odd/nan"][1])
    assert found["odd/inf"] == (3, math.inf)
    assert found["odd/täg"][0] == 2**30
    assert found["odd/täg"][1] == float(np.float32(1e-30))


def test_histograms_are_rows_of_left_right_count(loaded):
    ((step, table),) = values(loaded, "weights")
    assert step == 5
    assert table.dtype == np.float64
    assert table.tolist() == [[-1, 0, 3], [0, 0.5, 0], [0.5, 2, 7]]
    assert "weights" in loaded.PluginTagToContent("histograms")
    ((_, empty),) = values(loaded, "weights/empty")
    assert empty.shape == (0, 3)


def test_texts(loaded):
    ((step, text),) = values(loaded, "config")
    assert step == 0
    assert text.item() == b"*yaml*: `quant.bits: 8`"
    assert "config" in loaded.PluginTagToContent("text")


def test_images(loaded):
    ((step, strings),) = values(loaded, "picture")
    assert step == 5
    width, height, png = strings.tolist()
    assert (width, height) == (b"1", b"1")
    assert png.startswith(b"\x89PNG")
    assert "picture" in loaded.PluginTagToContent("images")


@pytest.mark.parametrize("cut", [1, 2, 5, 12, 16, 30, 47, 60])
def test_a_torn_tail_costs_the_last_record_only(run, tmp_path, cut):
    torn = tmp_path / sorted(run.iterdir())[1].name
    shutil.copy(sorted(run.iterdir())[1], torn)
    os.truncate(torn, torn.stat().st_size - cut)
    steps = [e.step for e in event_file_loader.EventFileLoader(str(torn)).Load() if e.summary.value]
    assert steps[:9] == list(range(60, 69)) and len(steps) == 9
