"""Every bad input: one clear line, the right exit code, nothing written, nothing harmed, no waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data import runtime
from onnxprune.errors import ProviderError
from tests.broken import BROKEN, Model
from tests.material import save, save_external, snapshot, tiny, within
from tests.terminal import done, refused

pytestmark = pytest.mark.usefixtures("instant")
MLP = Path(__file__).parents[1] / "models" / "mlp.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, an older output, data that fits, and what is no file."""
    save(tiny(), tmp_path / "model.onnx")
    save(b"old", tmp_path / "out.onnx")
    save(b"not a model", tmp_path / "junk.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 8), np.float32))
    np.savez(tmp_path / "wrong.npz", x=np.ones((4, 9), np.float32))
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2, 3]))
    np.save(tmp_path / "few.npy", np.array([0, 1, 2]))
    np.save(tmp_path / "high.npy", np.array([0, 1, 2, 4]))
    np.save(tmp_path / "pickled.npy", np.array([{}] * 4, dtype=object), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "soft.onnx").symlink_to("model.onnx")
    os.link(tmp_path / "model.onnx", tmp_path / "hard.onnx")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_is_refused_by_every_verb(tmp_path: Path, make: Callable[[], Model], words: str) -> None:
    model = save(make(), tmp_path / "broken.onnx")
    good = save(tiny(), tmp_path / "good.onnx")
    save(b"old", tmp_path / "out.onnx")
    out = ("-o", tmp_path / "out.onnx", "--ratio", "0.5")
    before = snapshot(tmp_path)
    with within(20):
        for verb in (
            ("inspect", model),
            ("explain", model),
            ("plan", model, *out),
            ("prune", model, *out),
            ("verify", model, good),
            ("verify", good, model),
            ("run", "zero-channels", model, *out),
        ):
            line = refused(3, *verb)
            assert words in line
            assert "broken.onnx" in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope.onnx", "No such file"),
        ("nope/nope.onnx", "No such file"),
        ("model.onnx/x", "Not a directory"),
        (".", "is a directory"),
        ("pipe", "not a regular file"),
        ("loop", "symbolic links"),
        ("x" * 300, "name too long"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "prune", "plan", "verify"])
def test_a_model_that_cannot_be_read_is_an_input_error(folder: Path, verb: str, name: str, words: str) -> None:
    out = ("-o", folder / "out.onnx", "--recover", "none", "--ratio", "0.5") if verb in ("prune", "plan") else ()
    more = (folder / "model.onnx",) if verb == "verify" else ()
    before = snapshot(folder)
    with within(5):
        assert words in refused(5, verb, folder / name, *more, *out)
    assert snapshot(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_model_without_permission_is_an_input_error(folder: Path) -> None:
    (folder / "model.onnx").chmod(0)
    assert "Permission denied" in refused(5, "inspect", folder / "model.onnx")


# Words in braces are names in the folder. Each case is: exit code, the options after `prune model`, words of the line.
PRUNE: list[tuple[int, str, str]] = [
    (2, "", "Missing option '-o'"),
    (2, "-o {new}", "Give one of ratio, params, macs, bytes, latency, speedup and max_drop; got none"),
    (2, "-o {new} --ratio .5 --macs .5", "got ratio, macs"),
    *(
        (2, f"-o {{new}} --ratio={value}", "ratio must lie in [0, 1]")
        for value in ("-0.1", "1.5", "nan", "inf", "-inf")
    ),
    (2, "-o {new} --ratio=half", "'half' is not a valid float"),
    (2, "-o {new} --ratio=", "not a valid float"),
    (2, "-o {new} --params=1.5", "params must lie in [0, 1]"),
    (2, "-o {new} --macs=nan", "macs must lie in [0, 1]"),
    (1, "-o {new} --macs=0", "cannot be brought to 0"),
    (2, "-o {new} --ratio .5 --criterion l22", "Did you mean 'l2'?"),
    (2, "-o {new} --ratio .5 --align 0", "align must be at least 1"),
    (2, "-o {new} --ratio .5 --align=-3", "align must be at least 1"),
    (2, "-o {new} --ratio .5 --align x", "'x' is neither a whole number nor 'auto'"),
    (2, "-o {new} --ratio .5 --min-keep 0", "min_keep must be at least 1"),
    (2, "-o {new} --ratio .5 --min-keep x", "'x' is not a valid integer"),
    (2, "-o {new} --ratio .5 --seed=-1", "-1 is not in the range"),
    (2, "-o {new} --ratio .5 --protect nope*", "Nothing to protect is called 'nope*'"),
    (2, "-o {new} --ratio .5 --protect=", "A name to protect is empty"),
    (2, "-o {new} --rato .5", "No such option '--rato'"),
    (4, "-o {new} --ratio .5 --provider cpuu", "'cpuu' is not available"),
    (4, "-o {new} --ratio .5 --provider cpu --provider NopeExecutionProvider", "'NopeExecutionProvider'"),
    (2, "-o {new} --ratio .5 --input-shape x", "NAME:1x3x224x224"),
    (2, "-o {new} --ratio .5 --input-shape x:1xa", "NAME:1x3x224x224"),
    (2, "-o {new} --ratio .5 --input-shape z:1x8", "No input is called 'z'"),
    (2, "-o {new} --ratio .5 --input-shape x:1x9", "does not fit"),
    (2, "-o {new} --ratio .5 --input-shape x:1x8x1", "does not fit"),
    (2, "-o {new} --ratio .5 --input-shape x:1000000000000x8", "not that large"),
    (2, "-o {new} --ratio .5 --input-shape x:1x8 --input-shape x:2x8", "twice for one input"),
    (5, "-o {new} --ratio .5 --data {nope.npz}", "No such file"),
    (5, "-o {new} --ratio .5 --data {pipe}", "not a regular file"),
    (2, "-o {new} --ratio .5 --data {empty}", "There is no data"),
    (2, "-o {new} --ratio .5 --data {wrong.npz}", "is of shape [4, 9]"),
    (2, "-o {new} --ratio .5 --data {junk.onnx}", "no .npy or .npz"),
    (2, "-o {new} --ratio .5 --data {pickled.npy}", "no .npy or .npz"),
    (2, "-o {new} --ratio .5 --labels {labels.npy}", "Labels need data"),
    (2, "-o {new} --ratio .5 --data {data.npz} --labels {few.npy}", "whole numbers, one per row of data"),
    (2, "-o {new} --ratio .5 --data {data.npz} --labels {high.npy}", "4 classes"),
    (2, "-o {new} --ratio .5 --data {data.npz} --labels {pickled.npy}", "no .npy or .npz"),
    (5, "-o {new} --ratio .5 --data {data.npz} --labels {nope.npy}", "No such file"),
    (2, "-o {model.onnx} --ratio .5", "is the input"),
    (2, "-o {./model.onnx} --ratio .5", "is the input"),
    (2, "-o {soft.onnx} --ratio .5", "is the input"),
    (2, "-o {hard.onnx} --ratio .5", "is the input"),
    (5, "-o {empty} --ratio .5", "is a directory"),
    (5, "-o {empty/} --ratio .5", "is a directory"),
    (5, "-o {new/} --ratio .5", "is a directory"),
    (5, "-o {nope/new.onnx} --ratio .5", "there is no directory"),
    (5, "-o {model.onnx/new.onnx} --ratio .5", "Not a directory"),
    (5, "-o {pipe} --ratio .5", "not a regular file"),
    (5, "-o {loop} --ratio .5", "symbolic links"),
    (2, "-o {data.npz} --ratio .5 --data {data.npz}", "named twice"),
    (2, "-o {new} --ratio .5 --plan {new}", "named twice"),
    (2, "-o {new} --ratio .5 --report {model.onnx}", "named twice"),
    (2, "-o {new} --ratio .5 --report {hard.onnx}", "named twice"),
    (2, "-o {new} --ratio .5 --report {data.npz} --data {data.npz}", "named twice"),
    (2, "-o {new} --ratio .5 --plan {a.json} --report {./a.json}", "named twice"),
    (2, "-o {new} --ratio .5 --plan {a.json} --json {a.json}", "named twice"),
    (2, "-o {new} --ratio .5 --json={a.txt}", "does not end in '.json'"),
    (5, "-o {new} --ratio .5 --plan {nope/a.json}", "there is no directory"),
    (5, "-o {new} --ratio .5 --report {empty}", "is a directory"),
    (5, "-o {new} --ratio .5 --report {pipe}", "not a regular file"),
    (5, "-o {new} --ratio .5 --json {nope/a.json}", "there is no directory"),
]


def words_of(options: str, folder: Path) -> list[str]:
    """The options, names in braces placed in the folder as they are written."""
    return [
        word.replace("{", f"{folder}/").replace("}", "") if "{" in word else word for word in options.split(" ") if word
    ]


@pytest.mark.parametrize(("code", "options", "words"), PRUNE, ids=[f"{o or 'nothing'}" for _, o, _ in PRUNE])
def test_a_wrong_option_is_one_line_and_writes_nothing(folder: Path, code: int, options: str, words: str) -> None:
    before = snapshot(folder)
    with within(10):
        assert words in refused(code, "prune", folder / "model.onnx", *words_of(options, folder))
    assert snapshot(folder) == before


OTHERS: list[tuple[int, str, str]] = [
    (2, "prun", "No such command 'prun'"),
    (2, "plan {model.onnx} -o {model.onnx} --ratio .5", "named twice"),
    (2, "plan {model.onnx} -o {hard.onnx} --ratio .5", "named twice"),
    (5, "plan {model.onnx} -o {empty} --ratio .5", "is a directory"),
    (5, "plan {model.onnx} -o {pipe} --ratio .5", "not a regular file"),
    (5, "plan {model.onnx} -o {nope/p.json} --ratio .5", "there is no directory"),
    (2, "plan {model.onnx} -o {p.json} --ratio .5 --data {wrong.npz}", "is of shape [4, 9]"),
    (5, "apply {model.onnx} {nope.json} -o {new}", "No such file"),
    (5, "apply {model.onnx} {pipe} -o {new}", "not a regular file"),
    (5, "apply {model.onnx} {empty} -o {new}", "is a directory"),
    (3, "apply {model.onnx} {junk.onnx} -o {new}", "is not a plan"),
    (2, "apply {model.onnx} {plan.json} -o {plan.json}", "named twice"),
    (2, "apply {model.onnx} {plan.json} -o {soft.onnx}", "is the input"),
    (4, "apply {model.onnx} {plan.json} -o {new} --provider cpuu", "'cpuu'"),
    (3, "apply {mlp.onnx} {plan.json} -o {new}", "made for another model"),
    (1, "verify {model.onnx} {mlp.onnx}", "Outputs differ"),
    (3, "verify {model.onnx} {junk.onnx}", "junk.onnx"),
    (3, "verify {mlp.onnx} {mlp.onnx} --plan {plan.json}", "made for another model"),
    (4, "verify {model.onnx} {model.onnx} --provider cpuu", "'cpuu'"),
    (2, "verify", "Missing argument"),
    (2, "inspect {model.onnx} --input-shape q:1", "No input is called 'q'"),
    (2, "explain {model.onnx} --tensor w11", "Did you mean 'w1'?"),
    (2, "explain {model.onnx} --group 9", "There is no group 9; the model has 1"),
    (2, "explain {model.onnx} --op Relo", "Did you mean 'Relu'?"),
    (2, "explain {model.onnx} --op Relu --group 0", "Give one of"),
    (2, "run remove-chanels {model.onnx} -o {new}", "Did you mean 'remove-channels'?"),
    (2, "run remove-channels {model.onnx} -o {new}", "got none"),
    (2, "run remove-channels {model.onnx} -o {new} --rato .5", "No such option '--rato'"),
    (2, "run remove-channels {model.onnx} -o {model.onnx} --ratio .5", "is the input"),
    (2, "run zero-channels {model.onnx} -o {new} --ratio .5 --seed=-1", "seed must be at least 0"),
    (5, "run zero-channels {model.onnx} -o {new} --ratio .5 --json {nope/a.json}", "there is no directory"),
    (5, "passes --json {nope/a.json}", "there is no directory"),
]


@pytest.mark.parametrize(("code", "words_given", "words"), OTHERS, ids=[given for _, given, _ in OTHERS])
def test_every_other_verb_refuses_as_clearly(folder: Path, code: int, words_given: str, words: str) -> None:
    save(MLP.read_bytes(), folder / "mlp.onnx")
    done("plan", folder / "model.onnx", "-o", folder / "plan.json", "--recover", "none", "--ratio", "0.5")
    before = snapshot(folder)
    with within(10):
        assert words in refused(code, *words_of(words_given, folder))
    assert snapshot(folder) == before


def test_cuda_where_there_is_none_is_no_silent_cpu(folder: Path) -> None:
    try:
        runtime.provider("cuda")
    except ProviderError:
        before = snapshot(folder)
        line = refused(
            4,
            "prune",
            folder / "model.onnx",
            "-o",
            folder / "new",
            "--recover",
            "none",
            "--ratio",
            ".5",
            "--provider",
            "cuda",
        )
        assert "it has " in line
        assert snapshot(folder) == before
    else:
        pytest.skip("this onnxruntime has CUDA")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_an_output_error(folder: Path) -> None:
    (folder / "empty").chmod(0o500)
    line = refused(
        5, "prune", folder / "model.onnx", "-o", folder / "empty" / "x.onnx", "--recover", "none", "--ratio", ".5"
    )
    assert "you may not write" in line
    (folder / "empty").chmod(0o700)


@pytest.mark.parametrize(
    ("location", "code"), [("../secret", 3), ("/etc/passwd", 3), ("pipe", 3), ("nope.bin", 5), ("model2.onnx", 3)]
)
def test_wrong_external_data_is_refused(folder: Path, location: str, code: int) -> None:
    def move(model: object) -> None:
        entries = model.graph.initializer[0].external_data  # type: ignore[attr-defined]
        entries[0].value = location

    model = save_external(folder, name="model2.onnx", change=move)
    before = snapshot(folder)
    with within(5):
        assert "'w1'" in refused(code, "prune", model, "-o", folder / "new", "--recover", "none", "--ratio", ".5")
    assert snapshot(folder) == before
