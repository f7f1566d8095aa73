"""The record: weights bit by bit, whatever their type and wherever they lie; files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxprune.errors import FileError, PruneError, RefusedError
from onnxprune.model.record import LARGEST_FILE, Record
from tests.material import changed, save, tiny, within

TYPES = [
    *(np.dtype(name) for name in ("float16", "float32", "float64", "bool", "complex64", "complex128")),
    *(np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2fnuz")),
    *(np.dtype(getattr(ml_dtypes, name)) for name in ("int4", "uint4", "float4_e2m1fn")),
]


def holding(array: NDArray[np.generic]) -> onnx.ModelProto:
    """The small model with one more initializer."""
    return changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(array, "more")))


@pytest.mark.parametrize("columns", [5, 3001], ids=["inside", "on disk"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_values_of_every_type_are_read_as_onnx_reads_them(dtype: np.dtype[np.generic], columns: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 2, (3, columns))
    record = Record(holding(numbers.astype(dtype)))
    found = record.array("more")
    assert found.dtype == dtype
    assert np.array_equal(found, numbers.astype(dtype))
    assert (record.raw("more") is None) == (columns == 5 or numbers.astype(dtype).dtype.itemsize * 3 * columns <= 1024)


def test_text_stays_text() -> None:
    array = np.array(["a", "long " * 500], dtype=object)
    record = Record(holding(array))
    assert record.array("more").tolist() == array.tolist()


def test_typed_entries_are_values_too() -> None:
    tensor = TensorProto(name="more", data_type=TensorProto.FLOAT, dims=[2000], float_data=range(2000))
    record = Record(changed(lambda m: m.graph.initializer.append(tensor)))
    assert np.array_equal(record.array("more"), np.arange(2000, dtype=np.float32))


def test_a_weight_on_disk_is_a_view_that_cannot_be_written(mlp: Path) -> None:
    weight = Record(mlp).array("w1")
    assert not weight.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1


def test_the_structure_holds_no_large_weight(mlp: Path) -> None:
    record = Record(mlp)
    assert [len(t.raw_data) for t in record.proto.graph.initializer] == [0, 256, 1024, 16]
    assert record.initializers == {"w1", "b1", "w2", "b2"}
    assert [record.position(name) for name in ("w1", "b2")] == [0, 3]
    assert record.nbytes == mlp.stat().st_size


def test_a_model_is_the_same_from_a_path_from_bytes_and_from_a_message(mlp: Path) -> None:
    records = [Record(mlp), Record(str(mlp)), Record(mlp.read_bytes()), Record(tiny())]
    assert len({record.sha256 for record in records}) == 1
    assert [record.name for record in records] == [str(mlp), str(mlp), "model", "model"]
    for record in records:
        assert np.array_equal(record.array("w1"), numpy_helper.to_array(tiny().graph.initializer[0]))


def test_a_link_to_a_model_is_the_model(mlp: Path) -> None:
    link = mlp.with_name("link.onnx")
    link.symlink_to(mlp.name)
    assert Record(link).sha256 == Record(mlp).sha256


def test_models_that_differ_in_one_bit_of_a_weight_have_other_hashes(mlp: Path) -> None:
    data = bytearray(mlp.read_bytes())
    data[data.index(tiny().graph.initializer[0].raw_data)] ^= 1
    assert Record(bytes(data)).sha256 != Record(mlp).sha256


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _missing(path: Path) -> None:
    """There is nothing."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, "No such file"),
        (_directory, "is a directory"),
        (_pipe, "not a regular file"),
        (_circle, "symbolic links"),
    ],
)
def test_what_is_no_file_cannot_be_read(tmp_path: Path, make: object, words: str) -> None:
    assert callable(make)
    make(tmp_path / "model.onnx")
    with within(5), pytest.raises(FileError, match=words) as refusal:
        Record(tmp_path / "model.onnx")
    assert "model.onnx" in str(refusal.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_cannot_be_read(mlp: Path) -> None:
    mlp.chmod(0)
    with pytest.raises(FileError, match="Permission denied"):
        Record(mlp)


def test_a_file_that_no_runtime_reads_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)  # of nothing: it takes no space
    with within(5), pytest.raises(RefusedError, match="save_as_external_data"):
        Record(path)


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_a_flipped_bit_in_the_structure_is_read_or_refused(position: int) -> None:
    """Most single bits still parse; whichever do not must end in a refusal, not in a fault."""
    model = tiny()
    for tensor in model.graph.initializer:
        tensor.ClearField("doc_string")
    data = bytearray(model.SerializeToString())
    data[position % len(data)] ^= 1 << position % 8
    try:
        Record(bytes(data))
    except PruneError as error:
        assert isinstance(error, RefusedError)  # noqa: PT017


def test_saving_what_was_read_and_reading_it_again_changes_nothing(tmp_path: Path) -> None:
    record = Record(tiny())
    assert Record(save(bytes(record.buffer), tmp_path / "again.onnx")).sha256 == record.sha256
