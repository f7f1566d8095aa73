"""`verify`: three questions kept apart, asked of every provider at every level, and where two models part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import synthesise
from onnxprune.data.runtime import LEVELS, Session
from onnxprune.errors import ProviderError, PruneError, RefusedError, UsageError
from onnxprune.model.record import Record
from onnxprune.surgery import removal, saving
from onnxprune.verification import divergence
from onnxprune.verification.comparison import TOLERANCE
from onnxprune.verification.divergence import Divergence, Side, first_difference, survivors
from onnxprune.verification.questions import Setup, setups
from tests.generated import mask
from tests.laws import analyse, every_other, parse
from tests.material import MLP, save
from tests.pretended import pretend
from tests.terminal import done, done_json, refused, run
from tests.test_planted_bugs import CASES

MODELS = Path(__file__).parents[1] / "models"
DEEP = """net (float[2,4] x) => (float[2,3] y)
<float[4,6] w1, float[6] b1, float[6,6] w2, float[6] b2, float[6,3] w3>
{ a = Gemm(x, w1, b1) r = Relu(a) c = Gemm(r, w2, b2) s = Sigmoid(c) y = MatMul(s, w3) }"""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, what half of it is, and the plan."""
    dense, cut, plan = (tmp_path / name for name in ("dense.onnx", "cut.onnx", "plan.json"))
    save(parse(MLP), dense)
    done("prune", dense, "-o", cut, "--ratio", "0.5", "--recover", "none", "--plan", plan)
    return dense, cut, plan


def spoilt(path: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A copy of a model with another weight."""
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    value = numpy_helper.to_array(tensor).copy()
    change(value)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return save(model, path.with_name("spoilt.onnx"))


def a_percent(value: Any) -> None:
    """One channel is off by a hundredth."""
    value[..., 1] *= 1.01


# ---- the questions -------------------------------------------------------------------------------------------------


def test_with_a_plan_all_three_are_answered_apart(pair: tuple[Path, Path, Path]) -> None:
    dense, cut, plan = pair
    found = done_json("verify", dense, cut, "--plan", plan, "--optimization", "both")
    assert found["equal"]
    assert list(found["providers"]) == ["cpu/off", "cpu"]
    assert list(found["agreement"]) == ["cpu"]
    assert [c["equal"] for c in found["cost"]] == [False]  # what a cut costs has nothing to pass
    assert found["placement"]["cpu"]["share"] == 1
    assert found["divergence"] == {}
    assert found["environment"]["onnxruntime"]


def test_one_model_alone_is_compared_with_itself(mlp: Path) -> None:
    found = done_json("verify", mlp)
    assert found["providers"] == {}
    assert list(found["agreement"]) == ["cpu"]
    assert list(done_json("verify", mlp, "--optimization", "basic")["agreement"]) == ["cpu/basic"]
    assert "Do the providers agree?" in done("verify", mlp)


def test_a_setup_is_asked_once_however_it_is_called() -> None:
    found = setups(["cpu", "CPU", "CPUExecutionProvider"], ["all", "off", "all"])
    assert found == [Setup("cpu", "all"), Setup("cpu", "off")]
    assert [str(each) for each in found] == ["cpu", "cpu/off"]
    assert len(setups(["cpu"], LEVELS)) == 4


@pytest.mark.parametrize(
    ("code", "words", "line"),
    [
        (2, "verify m.onnx --optimization off", "name another provider or level"),
        (2, "verify m.onnx --optimization full", "is not one of"),
        (2, "verify m.onnx --tolerance nan", "A tolerance is a fraction"),
        (2, "verify m.onnx --tolerance -1", "A tolerance is a fraction"),
        (2, "verify m.onnx --tolerance 2", "A tolerance is a fraction"),
        (2, "verify m.onnx --tolerance x", "not a valid float"),
        (2, "verify m.onnx --require-share 90", "A share is a fraction"),
        (2, "verify m.onnx --plan m.onnx", "name the second one, too"),
        (5, "verify none.onnx", "none.onnx"),
        (5, "verify m.onnx none.onnx", "none.onnx"),
        (4, "verify m.onnx --provider tpu", "'tpu' is not available"),
        (4, "verify m.onnx --provider cpu --provider ''", "'' is not available"),
        (2, "verify", "Missing argument"),
    ],
)
def test_what_makes_no_sense_is_refused(
    mlp: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, line: str
) -> None:
    monkeypatch.chdir(mlp.parent)
    save(mlp.read_bytes(), Path("m.onnx"))
    Path("m.onnx").rename("m.onnx")
    assert line in refused(code, *("" if word == "''" else word for word in words.split()))


@pytest.mark.parametrize(
    "given",
    [{"optimization": ["fast"]}, {"providers": []}, {"tolerance": float("nan")}, {"require_share": -0.1}],
)
def test_from_python_the_same_is_refused(mlp: Path, given: Any) -> None:
    with pytest.raises(UsageError):
        onnxprune.verify(mlp, **given)


def test_a_planted_error_of_a_percent_fails_at_every_level(tmp_path: Path) -> None:
    dense = save(parse(DEEP), tmp_path / "deep.onnx")
    wrong = spoilt(dense, "w2", lambda value: value.__imul__(1.01))
    for level in LEVELS:
        result = run("verify", dense, wrong, "--optimization", level)
        assert result.exit_code == 1
        assert "at tensor 'c' of Gemm node" in result.stderr


def test_a_tolerance_of_the_users_own_decides(tmp_path: Path) -> None:
    dense = save(parse(DEEP), tmp_path / "deep.onnx")
    wrong = spoilt(dense, "w3", a_percent)
    assert not onnxprune.verify(dense, wrong)
    assert onnxprune.verify(dense, wrong, tolerance=0.05)
    assert not onnxprune.verify(dense, wrong, tolerance=1e-5)


def test_nan_is_no_agreement_unless_the_user_says_so(tmp_path: Path) -> None:
    text = "net (float[2,4] x) => (float[2,4] y, float[2,4] z) <float none = {-1.0}, float[4] w> "
    model = save(parse(text + "{ n = Sqrt(none) m = Mul(x, w) y = Add(m, n) z = Relu(m) }"), tmp_path / "nan.onnx")
    assert "NaN in both" in refused_text(model)
    result = onnxprune.verify(model, model, equal_nan=True)
    assert "finite in no run" in result.proof["cpu"][0].problem
    assert result.proof["cpu"][1]


def refused_text(model: Path) -> str:
    """What `verify` says of a model that is compared with itself."""
    return run("verify", model, model).stderr


def test_infinite_values_in_the_same_places_are_counted(tmp_path: Path) -> None:
    text = """net (float[2,4] x) => (float[2,4] y) <float[4] mask = {0.0, -1e38, 0.0, 0.0}, float ten = {10.0}>
    { m = Mul(mask, ten) y = Add(x, m) }"""
    model = save(parse(text), tmp_path / "inf.onnx")
    found = done_json("verify", model, model)["providers"]["cpu"]
    assert [c["nonfinite"] > 0 for c in found] == [True]
    assert "not finite in both" in done("verify", model, model)


def test_models_of_other_outputs_cannot_be_compared(tmp_path: Path, mlp: Path) -> None:
    other = save(
        parse(DEEP.replace("y =", "q =").replace(") => (float[2,3] y)", ") => (float[2,3] q)")), tmp_path / "o"
    )
    assert run("verify", mlp, other).exit_code != 0


# ---- providers -----------------------------------------------------------------------------------------------------


def test_a_provider_that_agrees_passes(pair: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dense, cut, plan = pair
    made = pretend(monkeypatch)
    found = done_json("verify", dense, cut, "--plan", plan, "--provider", "cpu", "--provider", "cuda")
    assert list(found["providers"]) == list(found["agreement"]) == ["cpu", "cuda"]
    assert found["placement"]["cuda"]["share"] == 1
    assert made.options == {"use_tf32": "0"}


def test_a_provider_that_errs_alike_in_both_models_shows_only_where_providers_are_compared(
    pair: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may equal the other one on a provider that is wrong about both."""
    dense, cut, plan = pair
    pretend(monkeypatch, wrong=lambda outputs: [output * np.float32(1.01) for output in outputs])
    result = onnxprune.verify(dense, cut, plan=plan, providers=["cuda"])
    assert all(result.answers.surgery["cuda"])
    assert not all(result.answers.agreement["cuda"])
    assert not result
    line = run("verify", dense, cut, "--plan", plan, "--provider", "cuda")
    assert line.exit_code == 1
    assert "does not give the outputs of" in line.stderr
    assert "on cuda: output 'y' differs" in line.stderr


def test_a_provider_that_is_missing_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="it has"):
        onnxprune.verify(tmp_path / "none.onnx", providers=["tpu"])


# ---- where they part -----------------------------------------------------------------------------------------------

PARTS = {
    "zero taken for code 0": "y",
    "zero points mixed up": "y",
    "a lost offset in Concat": "c",
    "tile for repeat in a depthwise multiplier": "b",
    "a mean taken for a sum": "y",
    "a product of two activations that does not vanish": "y",
    "a width read as a number": "f",
    "a range that what is removed took part in": "s",
    "gates taken for neighbours": "h",
    "a vector cut for one of its readers only": "c",
    "a permutation not followed": "b",
}
"""For mistakes of a pruner that leave a model that runs, the tensor that is wrong first."""


def parted(model: onnx.ModelProto, removed: Mask, folder: Path) -> Divergence | None:
    """Where the cut model and the zeroed one part."""
    analysis = analyse(model)
    cut = saving.write(removal.remove(analysis, removed), folder, "cut.onnx")
    zeroed = saving.write(removal.zero(analysis, removed), folder, "zeroed.onnx")
    feeds = [dict(synthesise(analysis.graph, {}, seed, batch=2)) for seed in range(2)]
    sides = [Side(Graph(Record(path)), Session) for path in (zeroed, cut)]
    return first_difference(sides[0], sides[1], feeds, survivors(analysis, removed))


@pytest.mark.parametrize("mistake", PARTS)
def test_a_planted_mistake_is_found_at_its_tensor(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, plant = CASES[mistake]
    model = parse(text)
    assert parted(model, every_other(model), tmp_path) is None
    plant(monkeypatch)
    found = [parted(model, mask(analyse(model), seed), tmp_path) for seed in range(4)]
    assert {each.tensor for each in found if each} == {PARTS[mistake]}


@pytest.mark.parametrize(("weight", "tensor", "op"), [("w1", "a", "Gemm"), ("b2", "c", "Gemm"), ("w3", "y", "MatMul")])
@pytest.mark.parametrize("portion", [1, 2, 32])
def test_the_first_tensor_that_differs_is_named_with_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int, weight: str, tensor: str, op: str
) -> None:
    monkeypatch.setattr(divergence, "PORTION", portion)
    dense = save(parse(DEEP), tmp_path / "deep.onnx")
    found = onnxprune.verify(dense, spoilt(dense, weight, a_percent)).answers.divergence["surgery"]["cpu"]
    assert (found.tensor, found.op) == (tensor, op)
    assert found.comparison.relative > TOLERANCE["float32"]
    assert found.to_json()["comparison"]["output"] == tensor


def test_only_kept_channels_are_compared(pair: tuple[Path, Path, Path]) -> None:
    """Without the plan the cut itself is the first difference; with it, what is wrong beside the cut is."""
    dense, cut, plan = pair
    without = onnxprune.verify(dense, cut).answers.divergence["surgery"]["cpu"]
    assert "shape or type differs" in without.comparison.problem
    assert onnxprune.verify(dense, cut, plan=plan).answers.divergence == {}
    wrong = spoilt(cut, "b2", lambda value: value.__iadd__(1))
    assert onnxprune.verify(dense, wrong, plan=plan).answers.divergence["surgery"]["cpu"].tensor == "y"


def test_prune_names_where_its_own_surgery_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, plant = CASES["a permutation not followed"]
    model = save(parse(text), tmp_path / "model.onnx")
    plant(monkeypatch)
    out = tmp_path / "out.onnx"
    line = refused(1, "prune", model, "-o", out, "--ratio", "0.5", "--align", "1", "--recover", "none")
    assert line.startswith("Error: Removed and zeroed differ on cpu: output 'y' differs by")
    assert "first at tensor 'b' of Gather node 'b'" in line
    assert line.endswith("Nothing was written.")
    assert not out.exists()


def test_a_provider_that_errs_is_not_blamed_on_a_tensor_that_does_not(
    mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part whose outputs are off on the provider is the first one that is looked at."""
    pretend(monkeypatch, wrong=lambda outputs: [output + np.float32(0.1 * np.ptp(output)) for output in outputs])
    found = onnxprune.verify(mlp, providers=["cuda"], optimization=["all"]).answers.divergence["agreement"]["cuda"]
    assert found.tensor == "h"


def test_what_does_not_run_part_by_part_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = save(parse(DEEP), tmp_path / "deep.onnx")
    wrong = spoilt(dense, "w1", a_percent)

    def fails(part: bytes) -> Session:
        raise PruneError("no")

    sides = [Side(Graph(Record(path)), fails) for path in (dense, wrong)]
    assert first_difference(sides[0], sides[1], [{"x": np.ones((2, 4), np.float32)}]) is None


def test_models_without_a_name_in_common_part_nowhere(tmp_path: Path) -> None:
    model = parse(DEEP)
    renamed = parse(
        DEEP.replace("a = ", "a1 = ").replace("(a)", "(a1)").replace("r = ", "r1 = ").replace("(r,", "(r1,")
    )
    for graph in (renamed.graph,):
        graph.output[0].name = graph.node[-1].output[0] = "y"
    first, second = (Side(Graph(Record(each)), Session) for each in (model, renamed))
    assert first_difference(first, second, [{"x": np.ones((2, 4), np.float32)}]) is None


def test_a_plan_for_another_model_is_refused(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    dense, cut, plan = pair
    with pytest.raises(RefusedError):
        onnxprune.verify(cut, dense, plan=plan)


def test_a_plan_that_cuts_what_is_normalised_cannot_be_proved_by_zeroing(tmp_path: Path) -> None:
    text = """net (float[2,4] x) => (float[2,3] y)
    <float[4,8] w1, float[8] scale, float[8] shift, float[8,3] w2>
    { a = MatMul(x, w1) n = LayerNormalization(a, scale, shift) y = MatMul(n, w2) }"""
    dense, cut, plan = save(parse(text), tmp_path / "m.onnx"), tmp_path / "cut.onnx", tmp_path / "plan.json"
    words = ("--ratio", "0.5", "--align", "1", "--recover", "none", "--normalized-axes")
    done("prune", dense, "-o", cut, *words, "--plan", plan)
    assert "where removing is not zeroing" in refused_with(1, "verify", dense, cut, "--plan", plan)


def refused_with(code: int, *words: object) -> str:
    """What a check that failed says on its last line, after its tables."""
    result = run(*words)
    assert result.exit_code == code
    return result.stderr.strip().splitlines()[-1]
