"""Fourier transforms: the transformed axis stays whole, the others lose what they lose."""

from __future__ import annotations

import pytest

from tests.rules.cases import Case, check

# the last axis holds real and imaginary parts, so that 8 channels of 6 values become 8 spectra
SPECTRA = """g (float[N,3,6,C] x{inputs}) => (float[N,5,A,B] y)
<int64 two = {{2}}, int64 one = {{1}}, int64 ten = {{10}}, float[8,3,1,1] w, float[5,8,1,1] v> {{
    h = Conv(x, w)  {steps}  y = Conv(z, v)
}}"""
KEPT = {"v:1 w:0": 8}


def spectra(
    steps: str, opset: int, groups: dict[str, int] | None = None, why: str | None = None, parts: int = 1
) -> Case:
    inputs = ", int64 given" if "given" in steps else ""
    text = SPECTRA.format(steps=steps, inputs=inputs).replace("C]", f"{parts}]", 1)
    return Case(text, KEPT if groups is None else groups, why, opset)


GRAPHS: dict[str, Case] = {
    "DFT": spectra("z = DFT <axis = 2> (h)", 17),
    "DFT, of opset 20": spectra("z = DFT(h)", 20),
    "DFT, along a given axis": spectra("z = DFT <onesided = 1> (h, ten, two)", 20),
    "DFT, and back": spectra("a = DFT <axis = -2> (h)  z = DFT <axis = 2, inverse = 1> (a)", 17, parts=2),
    "DFT, of channels": spectra("z = DFT(h)", 17, {}, "DFT #1 ('z') transforms it as a whole"),
    "DFT, of channels since opset 20": spectra("z = DFT(h, , one)", 20, {}, "DFT #1 ('z') transforms it as a whole"),
    "DFT, along an axis given at run time": spectra(
        "z = DFT(h, , given)", 20, {}, "DFT #1 ('z') transforms an axis that is not known before running"
    ),
    "DFT, of two channels taken for real and imaginary parts": Case(
        """g (float[N,6,4] x) => (float[N,6,5] y) <float[4,2] w, float[2,5] v> {
            h = MatMul(x, w)  z = DFT <axis = 1> (h)  y = MatMul(z, v)
        }""",
        {},
        "DFT #1 ('z') takes it for real and imaginary parts",
    ),
    "DFT, of a batch of weights": Case(
        """g (float[N,4] x) => (float[N,M] y) <float[4,8] u, float[8,6,2] w> {
            h = MatMul(x, u)  t = DFT <axis = 1> (w)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"u:1 w:0": 8},
    ),
    "STFT": Case(
        """g (float[N,4] x) => (float[N,M] y)
        <int64 step = {4}, float[4,8] u, float[8,16,1] w, float[6] pane> {
            h = MatMul(x, u)  t = STFT <onesided = 1> (w, step, pane)  f = Flatten(t)  y = MatMul(h, f)
        }""",
        {"u:1 w:0": 8},
        "STFT #1 ('t') needs it whole",
    ),
    "STFT, that is summed over": Case(
        """g (float[N,3,4,2] x) => (float[N,3,4,2] y)
        <int64 step = {4}, int64[1] axis = {0}, float[8,16,1] w, float[6] pane> {
            t = STFT <onesided = 1> (w, step, pane)  s = ReduceSum(t, axis)  y = Mul(x, s)
        }""",
        {"w:0": 8},
    ),
    "STFT, of what is not zero that is summed over": Case(
        """g (float[N,3,4,2] x) => (float[N,3,4,2] y)
        <int64 step = {4}, int64[1] axis = {0}, float[8,16,1] w, float[6] pane> {
            e = Exp(w)  t = STFT <onesided = 1> (e, step, pane)  s = ReduceSum(t, axis)  y = Mul(x, s)
        }""",
        {},
        "ReduceSum #2 ('s') sums over it, and a zeroed unit would still contribute",
    ),
    "STFT, of channels": Case(
        """g (float[N,4] x) => (float[N,3,4,2] y) <int64 step = {4}, float[4,16] w, float[6] pane> {
            h = MatMul(x, w)  y = STFT <onesided = 1> (h, step, pane)
        }""",
        {},
        "STFT #1 ('y') transforms it as a whole",
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=list(GRAPHS))
def test_what_is_not_transformed_loses_channels(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("step", "groups"), [("Identity", {"w:0": 8}), ("Exp", {})])
def test_the_spectrum_of_zeros_is_zero(step: str, groups: dict[str, int]) -> None:
    text = f"""g (float[N,3,6,1] x) => (float[N,1,6,2] y) <int64[1] axis = {{1}}, float[8,3,1,1] w> {{
        h = Conv(x, w)  i = {step}(h)  z = DFT <axis = 2> (i)  y = ReduceSum(z, axis)
    }}"""
    check(Case(text, groups))
