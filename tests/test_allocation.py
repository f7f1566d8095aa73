"""Budgets: how many units of which group go."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.budget.allocation import Budget, allocate
from onnxprune.budget.ranking import rank
from onnxprune.errors import PruneError, UsageError
from tests.laws import analyse, parse

WIDE = """net (float[N,3,8,8] x) => (float[N,2,8,8] y)
<float[32,3,3,3] w1, float[32] b1, float[48,32,3,3] w2, float[24,48,1,1] w3, float[2,24,1,1] w4>
{ a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, w2) s = Relu(b)
  c = Conv(s, w3) y = Conv(c, w4) }"""


@pytest.fixture
def model() -> onnx.ModelProto:
    return parse(WIDE)


def allocated(analysis: Analysis, budget: Budget, criterion: str = "l2") -> Mask:
    return allocate(analysis, rank(analysis, criterion), budget, CostModel(analysis))


def kept(analysis: Analysis, removed: Mask) -> list[int]:
    return [int((~removed[analysis.members(g)]).sum()) for g in range(analysis.groups)]


@pytest.mark.parametrize(
    ("ratio", "widths"), [(0, [32, 48, 24]), (0.3, [23, 34, 17]), (0.5, [16, 24, 12]), (1, [1, 1, 1])]
)
def test_a_ratio_is_rounded_down_and_leaves_one(model: onnx.ModelProto, ratio: float, widths: list[int]) -> None:
    analysis = analyse(model)
    assert kept(analysis, allocated(analysis, Budget(ratio=ratio))) == widths


@pytest.mark.parametrize("align", [1, 2, 4, 8, 16, 32])
def test_kept_widths_are_multiples_of_the_alignment(model: onnx.ModelProto, align: int) -> None:
    analysis = analyse(model)
    full = [32, 48, 24]
    for width, whole in zip(kept(analysis, allocated(analysis, Budget(ratio=0.4, align=align))), full, strict=True):
        step = align if align <= whole else 2 ** int(math.log2(whole))
        assert width % step == 0 or width == whole
        assert width >= whole * 0.6


def test_a_grouped_convolution_aligns_its_channels_not_its_units() -> None:
    grouped = parse("""net (float[N,3,8,8] x) => (float[N,2,8,8] y)
    <float[64,3,3,3] w1, float[64,16,3,3] w2, float[2,64,1,1] w3>
    { a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1], group=4>(a, w2) y = Conv(b, w3) }""")
    analysis = analyse(grouped)
    assert [analysis.width_per_unit(g) for g in range(analysis.groups)] == [4, 4]
    assert kept(analysis, allocated(analysis, Budget(ratio=0.5, align=16))) == [8, 8]  # 32 channels, 4 a unit


def test_min_keep_holds(model: onnx.ModelProto) -> None:
    analysis = analyse(model)
    assert kept(analysis, allocated(analysis, Budget(ratio=1, min_keep=7))) == [7, 7, 7]


@pytest.mark.parametrize("measure", ["params", "macs"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("align", [1, 8])
def test_a_budget_is_met_and_nearly_used(model: onnx.ModelProto, measure: str, keep: float, align: int) -> None:
    analysis = analyse(model)
    cost = CostModel(analysis)
    spent = getattr(cost(allocated(analysis, Budget(**{measure: keep}, align=align))), measure)  # type: ignore[arg-type]
    dense = getattr(cost.dense, measure)
    assert spent <= keep * dense
    assert spent > keep * dense * (0.93 if align == 1 else 0.55)


def test_a_budget_out_of_reach_says_what_is_in_reach(model: onnx.ModelProto) -> None:
    analysis = analyse(model)
    with pytest.raises(PruneError, match=r"macs cannot be brought to 0\.1 .* is the least"):
        allocated(analysis, Budget(macs=0.1, align=16))


def test_ties_go_to_the_lowest_index() -> None:
    model = parse("""net (float[N,4] x) => (float[N,2] y) <float[4,6] w1, float[6,2] w2>
    { a = MatMul(x, w1) y = MatMul(a, w2) }""")
    for tensor in model.graph.initializer:
        tensor.raw_data = np.ones(list(tensor.dims), np.float32).tobytes()
    analysis = analyse(model)
    assert np.flatnonzero(allocated(analysis, Budget(ratio=0.5))).tolist() == [0, 1, 2]


def test_the_lowest_scores_go_first(model: onnx.ModelProto) -> None:
    analysis = analyse(model)
    ranking = rank(analysis, "l1")
    removed = allocate(analysis, ranking, Budget(ratio=0.5), CostModel(analysis))
    for group in range(analysis.groups):
        units = analysis.members(group)
        assert ranking.scores[units[removed[units]]].max() <= ranking.scores[units[~removed[units]]].min()


@pytest.mark.parametrize(
    "options",
    [{}, {"ratio": 0.5, "macs": 0.5}, {"ratio": -0.1}, {"ratio": 1.1}, {"ratio": math.nan}, {"params": 2.0},
     {"macs": -1.0}, {"ratio": 0.5, "align": 0}, {"ratio": 0.5, "min_keep": 0}],
)  # fmt: skip
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Budget(**options)  # type: ignore[arg-type]
