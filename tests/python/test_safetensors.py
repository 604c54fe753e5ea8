"""tests/python/test_safetensors.py -- our safetensors files and the Python package, both ways."""

import json
import os
import pathlib
import subprocess

import pytest

np = pytest.importorskip("numpy")
st = pytest.importorskip("safetensors")
from safetensors.numpy import load_file, save_file

BUILD = pathlib.Path(os.environ.get("QATTRAIN_BINARY", "build/cpu/qattrain")).parent
PROGRAM = BUILD / "core_test"


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built")
    folder = tmp_path_factory.mktemp("safetensors")
    random = np.random.default_rng(1)
    foreign = {
        "conv.weight": random.standard_normal((8, 3, 3, 4)).astype(np.float32),
        "codes": random.integers(-128, 128, (5, 7), dtype=np.int8),
        "pixels": random.integers(0, 256, (3, 5, 1), dtype=np.uint8),
        "counts": np.array([2**62, -(2**62)], dtype=np.int64),
        "sums": np.array([[-(2**31), 2**31 - 1]], dtype=np.int32),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "ünïcode \"name\"": np.ones((1, 1, 1, 1, 3), dtype=np.uint8),
    }
    save_file(foreign, folder / "foreign.safetensors", metadata={"made by": "Python", "ü": "\n"})
    subprocess.run(
        [PROGRAM, "--gtest_filter=Safetensors.ExchangesFilesWithOtherPrograms"],
        env={**os.environ, "QATTRAIN_SAMPLE_DIR": str(folder)},
        check=True,
    )
    return folder, foreign


def test_python_reads_what_we_write(folder):
    folder, _ = folder
    tensors = {}
    with st.safe_open(folder / "written.safetensors", framework="numpy") as file:
        assert file.metadata() == {"written by": "qattrain"}
        for name in file.keys():
            if name != "half":  # numpy has no bfloat16
                tensors[name] = file.get_tensor(name)
    assert tensors["first.weight"].shape == (2, 1, 3)
    expected = np.array([1.5, -0.0, np.inf, np.nan, 3e-41, -7], dtype=np.float32).reshape(2, 1, 3)
    np.testing.assert_array_equal(tensors["first.weight"], expected)
    assert np.signbit(tensors["first.weight"].flat[1])
    assert tensors["odd bytes before floats"].tolist() == [-128, 0, 127]
    assert tensors['unsigned "codes" é'].tolist() == [[0], [1], [2], [254], [255]]
    assert tensors["counts"].tolist() == [[-(2**63), 2**63 - 1]]
    assert tensors["sums"].tolist() == [-(2**31), 5]
    assert tensors["scalar"].shape == () and tensors["scalar"] == 42
    assert tensors["nothing"].shape == (0, 3)
    assert tensors["five"].shape == (1, 1, 1, 1, 2)


def test_bfloat16_bits_are_the_upper_half_of_a_float(folder):
    folder, _ = folder
    path = folder / "written.safetensors"
    entry = header_of(path)["half"]
    assert entry["dtype"] == "BF16"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little") + entry["data_offsets"][0]
    bits = np.frombuffer(data[start : start + 4], dtype=np.uint16).astype(np.uint32) << 16
    assert bits.view(np.float32).tolist() == [1.0, -3.5]


def test_every_tensor_is_aligned(folder):
    folder, _ = folder
    path = folder / "written.safetensors"
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    sizes = {"F32": 4, "I32": 4, "I64": 8, "BF16": 2, "I8": 1, "U8": 1}
    for name, entry in header_of(path).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sizes[entry["dtype"]] == 0, name


def test_we_read_what_python_writes(folder):
    folder, foreign = folder
    again = load_file(folder / "rewritten.safetensors")
    assert again.keys() == foreign.keys()
    for name, tensor in foreign.items():
        assert again[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
    metadata = header_of(folder / "rewritten.safetensors")["__metadata__"]
    assert metadata == {"made by": "Python", "ü": "\n"}
