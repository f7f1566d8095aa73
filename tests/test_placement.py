"""Which provider really ran what: by node, by multiply-accumulates, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.algebra.cost import CostModel
from onnxprune.data.runtime import Session
from onnxprune.errors import ProviderError
from onnxprune.verification import placement
from onnxprune.verification.placement import Placement, placed
from tests.laws import analyse, parse
from tests.material import save
from tests.pretended import pretend
from tests.terminal import done_json, refused

NET = """net (float[1,3,8,8] x) => (float[1,5,8,8] y)
<float[4,3,3,3] w1, float[4] b1, float[4] scale, float[4] shift, float[4] mean, float[4] var, float[5,4,1,1] w2>
{ c = Conv<pads=[1,1,1,1]>(x, w1, b1) n = BatchNormalization(c, scale, shift, mean, var)
  r = Relu(n) y = Conv(r, w2) }"""
FIRST, SECOND = 8 * 8 * 4 * 3 * 9, 8 * 8 * 5 * 4
NAMELESS = """net (float[1,6] x) => (float[1,2] y) <float[6,8] w1, float[8] b, float[8,2] w2>
{ a = MatMul(x, w1) c = Add(a, b) y = MatMul(c, w2) }"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two convolutions, the first with nine times the kernel."""
    return save(parse(NET), tmp_path / "net.onnx")


def found(model: onnx.ModelProto, folder: Path, level: str = "all") -> Placement:
    """Where the nodes of a model run on the pretended provider."""
    return placed(analyse(model), "cuda", level, {"x": _zeros(model)}, {}, folder)


def _zeros(model: onnx.ModelProto) -> np.ndarray:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return np.zeros([dim.dim_value for dim in dims], np.float32)


def test_macs_are_counted_node_by_node() -> None:
    analysis = analyse(parse(NET))
    nothing = np.zeros(analysis.units, dtype=bool)
    cost = CostModel(analysis)
    assert cost.macs_by_node(nothing).tolist() == [FIRST, 0, 0, SECOND]
    assert cost.macs_by_node(nothing).sum() == cost.dense.macs
    half = analysis.least()
    assert cost.macs_by_node(half).sum() == cost(half).macs


def test_the_share_is_one_of_multiply_accumulates_not_of_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: kind == "Conv")
    got = found(parse(NET), tmp_path)
    assert got.share == 1
    assert got.nodes == {"cuda": 2, "cpu": 2}
    pretend(monkeypatch, lambda kind: kind != "Conv")
    got = found(parse(NET), tmp_path)
    assert got.share == 0
    assert got.macs == {"cpu": FIRST + SECOND, "cuda": 0}
    assert [(op, where, macs) for _, op, where, macs in got.elsewhere] == [
        ("Conv", "cpu", FIRST),
        ("Conv", "cpu", SECOND),
    ]


@pytest.mark.parametrize("on", ["MatMul", "Gemm"])
def test_nodes_are_found_without_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str) -> None:
    model = parse(NAMELESS)
    for node in model.graph.node:
        node.name = ""
    pretend(monkeypatch, lambda kind: kind in (on, "Add"))
    got = found(model, tmp_path)
    assert got.unknown == 0
    assert got.share == (on == "MatMul")


def test_what_was_fused_under_another_name_is_looked_up_unfused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    by_level = {"all": {2: cuda}, "off": dict.fromkeys(range(3), cpu)}
    pretend(monkeypatch)
    monkeypatch.setattr(placement, "_found", lambda path, on, level, *others: (by_level[level], {}))
    got = found(parse(NAMELESS), tmp_path)
    assert got.unknown == 0
    assert got.macs == {"cpu": 48, "cuda": 16}


def test_where_onnx_runtime_does_not_tell_a_profile_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: kind == "MatMul", tells=False)
    got = found(parse(NAMELESS), tmp_path, "off")
    assert (got.macs, got.unknown) == ({"cuda": 64, "cpu": 0}, 0)
    assert got.nodes == {"cuda": 2, "cpu": 1}
    assert sum(got.time.values()) == pytest.approx(1)
    assert 0 < got.time["cuda"] < 1


def test_a_profile_tells_of_a_fallback_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: False, tells=False)
    with pytest.raises(ProviderError, match="runs nothing on it"):
        found(parse(NET), tmp_path)


def test_a_compiled_part_has_its_share_of_the_time() -> None:
    got = Placement("cuda", "all", {"cpu": 1}, {"cpu": 10}, {"cuda": 0.75, "cpu": 0.25}, [], unknown=3)
    assert (got.measure, got.share) == ("time", 0.75)


def test_a_model_without_multiply_accumulates_is_counted_by_nodes() -> None:
    got = Placement("cuda", "all", {"cpu": 1, "cuda": 3}, {"cpu": 0, "cuda": 0}, {}, [])
    assert (got.measure, got.share) == ("nodes", 0.75)


def test_the_cpu_has_nothing_to_fall_back_to(tmp_path: Path) -> None:
    model = parse(NET)
    got = placed(analyse(model), "cpu", "all", {"x": _zeros(model)}, {}, tmp_path)
    assert (got.share, got.nodes, got.macs) == (1, {"cpu": 4}, {"cpu": FIRST + SECOND})


def test_a_provider_that_runs_nothing_has_fallen_back(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: False)
    with pytest.raises(ProviderError, match="runs nothing on it: all 4 nodes"):
        Session(net, "cuda")
    assert "fell back to CPUExecutionProvider" in refused(4, "verify", net, "--provider", "cuda")


def test_a_provider_that_steps_aside_has_fallen_back(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend(monkeypatch)
    monkeypatch.setattr(made, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        Session(net, "cuda")


def test_the_share_that_is_required_is_a_check(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: kind != "Relu")
    assert onnxprune.verify(net, providers=["cuda"], require_share=0.99)
    pretend(monkeypatch, lambda kind: kind == "Relu")
    result = onnxprune.verify(net, providers=["cuda"], require_share=0.99)
    assert not result
    assert result.problem == "cuda ran 0.0% of its MACs only, and 99.0% are required"
    assert onnxprune.verify(net, providers=["cuda"])


def test_json_says_what_ran_where(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda kind: kind == "Conv")
    where = done_json("verify", net, "--provider", "cuda", "--optimization", "off")["placement"]["cuda/off"]
    assert where["share"] == 1
    assert where["share_of"] == "MACs"
    assert [node["op"] for node in where["elsewhere"]] == ["BatchNormalization", "Relu"]


def test_what_is_listed_but_of_no_use_is_refused(net: Path) -> None:
    """Some builds list a provider that runs remote models only."""
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime lists no provider that runs nothing")
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell what runs where")
    assert "AzureExecutionProvider" in refused(4, "verify", net, "--provider", "azure")
