"""Writing: bit-exact, atomic, the same every time, and never at the cost of another file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.model import files
from onnxprune.model.record import Record
from onnxprune.plan import Plan
from onnxprune.surgery import saving
from onnxprune.surgery.removal import Draft
from tests.material import changed, save, save_external, snapshot, tiny, weights

pytestmark = pytest.mark.usefixtures("instant")
CNN = Path(__file__).parents[1] / "models" / "cnn.onnx"


def draft_of(record: Record) -> Draft:
    """A draft that changes nothing."""
    proto = onnx.ModelProto()
    proto.CopyFrom(record.proto)
    return Draft(record, proto)


def run_cli(*args: object, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, after some Python."""
    script = f"import os, resource, signal, sys\n{before}\nfrom onnxprune.cli import main\nmain(sys.argv[1:])"
    words = [sys.executable, "-c", script, *map(str, args)]
    given = {**os.environ, **environment}
    return subprocess.run(words, capture_output=True, text=True, timeout=60, env=given, check=False)


# ---- drafts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("columns", [5, 3001])
def test_what_no_one_touched_leaves_bit_by_bit(tmp_path: Path, name: str, columns: int) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, columns)).astype(getattr(ml_dtypes, name))
    model = changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(array, "more")))
    model.metadata_props.add(key="a", value="b")
    assert onnx.load(saving.write(draft_of(Record(model)), tmp_path, "out.onnx")) == model


def test_an_array_that_was_made_anew_is_written_in_its_type(tmp_path: Path) -> None:
    array = np.array([[1, -1, 3], [0, 7, -8]] * 600, ml_dtypes.int4)
    model = changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(array, "more")))
    draft = draft_of(Record(model))
    made = np.flip(array)
    draft.arrays["more"] = lambda: made
    assert weights(saving.write(draft, tmp_path, "out.onnx"))["more"].tolist() == made.tolist()


def test_arrays_are_made_one_after_the_other(tmp_path: Path) -> None:
    """A large model is never in memory as a whole."""
    alive: list[str] = []

    def make(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        alive.append(name)
        return np.full((8, 64), len(alive), np.float32)

    model = changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones((8, 64), np.float32), "more")))
    draft = draft_of(Record(model))
    draft.arrays.update(w1=lambda: make("w1"), more=lambda: make("more"))
    assert not alive
    found = weights(saving.write(draft, tmp_path, "out.onnx"))
    assert alive == ["w1", "more"]
    assert (found["w1"][0, 0], found["more"][0, 0]) == (1, 2)


def test_a_draft_that_exceeds_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = draft_of(Record(tiny()))
    monkeypatch.setattr(saving, "LARGEST_FILE", 2000)
    with pytest.raises(RefusedError, match="external data"):
        saving.write(draft, tmp_path, "out.onnx")


def test_external_data_is_written_into_one_new_file(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    made = saving.write(draft_of(Record(source)), tmp_path / "new", "out.onnx")
    data = next(path for path in made.parent.iterdir() if path != made)
    assert re.fullmatch(r"out-[0-9a-f]{16}\.data", data.name)
    assert data.stat().st_size == (8 * 64 + 64 * 4) * 4  # the padding is gone
    expected = weights(source)
    assert {name: array.tobytes() for name, array in weights(made).items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize("name", ["a b\\c.onnx", "x" * 200 + ".onnx", "é:__ü.onnx", ".onnx"])
def test_a_data_file_has_a_name_that_every_reader_takes(tmp_path: Path, name: str) -> None:
    made = saving.write(draft_of(Record(save_external(tmp_path))), tmp_path / "new", name)
    assert np.array_equal(Record(made).array("w1"), weights(tmp_path / "model.onnx")["w1"])


def test_overlapping_tensors_are_written_apart(tmp_path: Path) -> None:
    def overlap(model: onnx.ModelProto) -> None:
        entries = {entry.key: entry for entry in model.graph.initializer[2].external_data}
        entries["offset"].value = "7"

    source = save_external(tmp_path, change=overlap)
    made = saving.write(draft_of(Record(source)), tmp_path / "new", "out.onnx")
    assert np.array_equal(weights(made)["w2"], weights(source)["w2"])
    assert np.array_equal(weights(made)["w2"].ravel(), weights(source)["w1"].ravel()[:256])


# ---- copies and places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["weights.bin", "below/weights.bin"])
def test_a_copy_is_the_model_and_its_data_byte_for_byte(tmp_path: Path, data: str) -> None:
    (tmp_path / "a").mkdir()
    source = save_external(tmp_path / "a", data=data)
    saving.publish(saving.copy(Record(source), tmp_path / "staged", "model.onnx"), tmp_path / "model.onnx")
    shutil.rmtree(tmp_path / "staged")
    copied = {name: found for name, found in snapshot(tmp_path).items() if not name.startswith("a")}
    assert copied == snapshot(tmp_path / "a")


def test_data_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    before = (tmp_path / "weights.bin").stat()
    saving.publish(saving.copy(Record(source), tmp_path / "staged", "x.onnx"), tmp_path / "x.onnx")
    assert (tmp_path / "weights.bin").stat().st_ino == before.st_ino
    assert (tmp_path / "x.onnx").read_bytes() == source.read_bytes()


def test_another_file_of_the_data_files_name_is_not_replaced(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.bin").write_bytes(b"mine")
    (other / "x.onnx").write_bytes(b"old")
    with pytest.raises(FileError, match=r"weights\.bin.*another file of that name"):
        onnxprune.prune(source, other / "x.onnx", recover="none", ratio=0)
    assert snapshot(other) == {"weights.bin": b"mine", "x.onnx": b"old"}


@pytest.mark.parametrize("kind", ["path", "dot", "symlink", "hardlink"])
def test_the_source_is_no_target_under_any_name(tmp_path: Path, kind: str) -> None:
    source = save(tiny(), tmp_path / "model.onnx")
    target = tmp_path / "other.onnx"
    if kind == "symlink":
        target.symlink_to(source)
    elif kind == "hardlink":
        os.link(source, target)
    else:
        target = source if kind == "path" else Path(f"{tmp_path}/./model.onnx")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="is the input"):
        onnxprune.prune(source, target, recover="none", ratio=0.5)
    assert snapshot(tmp_path) == before
    onnxprune.prune(source, target, recover="none", ratio=0.5, in_place=True)
    assert weights(target)["w1"].shape == (8, 32)


def test_the_sources_data_is_no_target_either(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    before = snapshot(tmp_path)
    for in_place in (False, True):
        with pytest.raises(UsageError, match="external data"):
            onnxprune.prune(source, tmp_path / "weights.bin", recover="none", ratio=0.5, in_place=in_place)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("out", ["", ".", "..", "new/", "a/.."])
def test_a_name_that_means_a_directory_is_refused(mlp: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(mlp.parent)
    with pytest.raises(FileError, match="is a directory"):
        onnxprune.prune(mlp, out, recover="none", ratio=0.5)


# ---- whole runs --------------------------------------------------------------------------------------------------


def test_a_link_as_output_is_replaced_not_followed(mlp: Path) -> None:
    other = save(b"keep me", mlp.with_name("other"))
    target = mlp.with_name("out.onnx")
    target.symlink_to("other")
    onnxprune.prune(mlp, target, recover="none", ratio=0.5)
    assert not target.is_symlink()
    assert other.read_bytes() == b"keep me"


@pytest.mark.parametrize("external", [False, True])
def test_the_same_run_gives_the_same_bytes(tmp_path: Path, external: bool) -> None:
    source = save_external(tmp_path) if external else save(tiny(), tmp_path / "model.onnx")
    out = tmp_path / "out"
    out.mkdir()
    onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.5)
    first = snapshot(out)
    assert len(first) == 1 + external
    onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.5)
    assert snapshot(out) == first


def test_hash_seeds_do_not_matter(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        done = run_cli(
            "plan", CNN, "-o", tmp_path / f"{seed}.json", "--recover", "none", "--macs", "0.6", PYTHONHASHSEED=seed
        )
        assert done.returncode == 0, done.stderr
        plan = tmp_path / f"{seed}.json"
        done = run_cli("apply", CNN, plan, "-o", tmp_path / f"{seed}.onnx", PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_external_data_follows_into_another_folder(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    result = onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.5)
    found = weights(out / "x.onnx")
    assert found["w1"].shape == (8, 32)
    kept = Plan.loads(result.plan.dumps()).keep["w1"][1]
    assert np.array_equal(found["w1"], weights(source)["w1"][:, kept])
    assert result.applied.bytes["after"] == sum(path.stat().st_size for path in out.iterdir())


def test_a_model_with_external_data_is_pruned_in_place(tmp_path: Path) -> None:
    """The old data stays: another model may read it."""
    source = save_external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    onnxprune.prune(source, source, recover="none", ratio=0.5, in_place=True)
    assert weights(source)["w1"].shape == (8, 32)
    assert (tmp_path / "weights.bin").read_bytes() == data
    assert len(snapshot(tmp_path)) == 3


def test_a_model_that_shares_its_data_is_not_touched(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    other = save(source.read_bytes(), tmp_path / "other.onnx")
    before = {name: array.tobytes() for name, array in weights(other).items()}
    onnxprune.prune(source, source, recover="none", ratio=0.5, in_place=True)
    assert {name: array.tobytes() for name, array in weights(other).items()} == before


def test_a_cache_of_links_is_pruned_and_not_changed(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    for folder in (cache / "blobs", cache / "snapshots" / "0123", out):
        folder.mkdir(parents=True)
    save_external(cache, data="model.onnx_data")
    for name, blob in (("model.onnx", "a1"), ("model.onnx_data", "b2")):
        shutil.move(cache / name, cache / "blobs" / blob)
        (cache / "snapshots" / "0123" / name).symlink_to(f"../../blobs/{blob}")
    before = snapshot(cache)
    model = cache / "snapshots" / "0123" / "model.onnx"
    onnxprune.prune(model, out / "half.onnx", recover="none", ratio=0.5)
    onnxprune.prune(model, out / "whole.onnx", recover="none", ratio=0)
    assert weights(out / "half.onnx")["w1"].shape == (8, 32)
    assert np.array_equal(weights(out / "whole.onnx")["w1"], numpy_helper.to_array(tiny().graph.initializer[0]))
    assert snapshot(cache) == before


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_model_in_memory_leaves_nothing_but_the_output(tmp_path: Path, ratio: float) -> None:
    for source in (tiny(), tiny().SerializeToString()):
        onnxprune.prune(source, tmp_path / "x.onnx", recover="none", ratio=ratio)
        assert list(snapshot(tmp_path)) == ["x.onnx"]


# ---- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("percent", [25, 50, 90])
def test_a_full_disk_leaves_the_old_output(tmp_path: Path, percent: int, external: bool) -> None:
    """Of the output, or of its data, only so much can be written."""
    if external:
        source = save_external(tmp_path)
        size = (8 * 32 + 32 * 4) * 4
    else:
        source, size = CNN, 900_000
    out = tmp_path / "out"
    out.mkdir()
    save(b"old", out / "x.onnx")
    limit = size * percent // 100
    done = run_cli(
        *("prune", source, "-o", out / "x.onnx", "--recover", "none", "--ratio", "0.5"),
        before=f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))",
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 5, done.stderr
    assert re.fullmatch(r"Error: Cannot write '.*x\.onnx': File too large\.\n", done.stderr)
    assert snapshot(out) == {"x.onnx": b"old"}


@pytest.mark.parametrize("when", ["files.sync = kill", "os.replace = kill"])
@pytest.mark.parametrize("external", [False, True])
def test_a_killed_run_leaves_the_old_output_and_hinders_no_next_one(tmp_path: Path, when: str, external: bool) -> None:
    source = save_external(tmp_path) if external else save(tiny(), tmp_path / "model.onnx")
    out = tmp_path / "out"
    out.mkdir()
    save(b"old", out / "x.onnx")
    kill = f"from onnxprune.model import files\nkill = lambda *given: os.kill(os.getpid(), {signal.SIGKILL:d})\n{when}"
    done = run_cli("prune", source, "-o", out / "x.onnx", "--recover", "none", "--ratio", "0.5", before=kill)
    assert done.returncode == -signal.SIGKILL
    assert (out / "x.onnx").read_bytes() == b"old"
    onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.5)
    assert weights(out / "x.onnx")["w1"].shape == (8, 32)


def test_two_runs_at_once_never_mix_a_model_with_the_others_data(tmp_path: Path) -> None:
    source, out = save_external(tmp_path), tmp_path / "out"
    out.mkdir()
    words = ("prune", source, "-o", out / "x.onnx", "--ratio")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda ratio: run_cli(*words, ratio), ("0.25", "0.5")))
    assert [run.returncode for run in both] == [0, 0]
    found = weights(out / "x.onnx")
    assert found["w1"].shape[1] == found["w2"].shape[0] in (32, 48)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_data_comes_before_the_model_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure between the two leaves the old model with its old data."""
    source = save_external(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.25)
    before = weights(out / "x.onnx")["w1"].tobytes()
    moved: list[str] = []
    replace = os.replace

    def once(old: Path, new: Path) -> None:
        moved.append(Path(new).suffix)
        if len(moved) == 2:
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(FileError, match="No space left"):
        onnxprune.prune(source, out / "x.onnx", recover="none", ratio=0.5)
    assert moved == [".data", ".onnx"]
    assert weights(out / "x.onnx")["w1"].tobytes() == before


def test_a_failed_proof_writes_nothing(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = saving.write

    def off_by_one_percent(draft: Draft, folder: Path, name: str) -> Path:
        if name == "zeroed.onnx":
            bias = numpy_helper.to_array(draft.proto.graph.initializer[3]) * 1.5
            draft.proto.graph.initializer[3].CopyFrom(numpy_helper.from_array(bias, "b2"))
        return original(draft, folder, name)

    monkeypatch.setattr(saving, "write", off_by_one_percent)
    before = snapshot(mlp.parent)
    with pytest.raises(
        onnxprune.PruneError, match=r"Removed and zeroed differ on cpu: output 'y'.*Nothing was written"
    ):
        onnxprune.prune(mlp, mlp.with_name("x.onnx"), recover="none", ratio=0.5)
    assert snapshot(mlp.parent) == before
    result = onnxprune.prune(mlp, mlp.with_name("x.onnx"), recover="none", ratio=0.5, keep_unverified=True)
    assert not result.applied.verified
    assert mlp.with_name("x.onnx").exists()


def test_the_output_is_readable_by_others(mlp: Path) -> None:
    """A file made in a private directory must not stay private."""
    onnxprune.prune(mlp, mlp.with_name("x.onnx"), recover="none", ratio=0.5)
    assert mlp.with_name("x.onnx").stat().st_mode == mlp.stat().st_mode


def test_nothing_is_asked_of_a_path_that_is_given_as_text(mlp: Path) -> None:
    onnxprune.prune(str(mlp), str(mlp.with_name("x.onnx")), ratio=0.5)
    assert files.same_file(mlp, Path(str(mlp)))
