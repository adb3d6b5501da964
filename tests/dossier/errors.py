"""Errors in ulp and relative ones, and the worst of many."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from reference import EXACT


class Limits(NamedTuple):
    """What errors are measured in, and where a result's type loses digits and ends."""

    epsilon: float
    least: float
    largest: float

    @classmethod
    def of(cls, dtype, result):
        """The epsilon of an input's dtype and the range of a result's."""
        info = np.finfo(result)
        return cls(float(np.finfo(dtype).eps), float(info.tiny), float(info.max))


@dataclass
class Worst:
    """The largest errors of one function over `inputs` inputs, in units of the dtype's epsilon, and where they are."""

    inputs: int = 0
    ulp: float = 0.0  # |got - want| over the gap between floats at want
    ulp_at: str | None = None
    relative: float = 0.0  # |got - want| / |want| over epsilon: at most ulp, at least half of it
    relative_at: str | None = None

    def add(self, ulp, relative, name_of):
        """Count arrays of errors; `name_of(i)` writes an input down."""
        self.inputs += len(ulp)
        for kind, values in (("ulp", ulp), ("relative", relative)):
            i = int(np.argmax(values)) if len(values) else -1
            if i >= 0 and (values[i] > getattr(self, kind) or getattr(self, f"{kind}_at") is None):
                setattr(self, kind, float(values[i]))
                setattr(self, f"{kind}_at", name_of(i))

    def merge(self, other):
        """Take over what is worse in another."""
        self.inputs += other.inputs
        for kind in ("ulp", "relative"):
            if getattr(other, f"{kind}_at") is not None and (
                getattr(self, f"{kind}_at") is None or getattr(other, kind) > getattr(self, kind)
            ):
                setattr(self, kind, getattr(other, kind))
                setattr(self, f"{kind}_at", getattr(other, f"{kind}_at"))
        return self


def binade(size):
    """The power of two at or below each float64 > 0: its exponent's bits."""
    return (size.view(np.int64) & 0x7FF0000000000000).view(np.float64)


def errors(got, want, limits, scale=None):
    """(in ulp, relative) of an array, in units of epsilon, on the scale of the values or another one.

    Wrong infinities and NaNs are infinitely wrong.

    Where the result's type loses digits, an error is on the scale of the least number that keeps them all.
    """
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(want if scale is None else scale).astype(np.float64), limits.least)
        missed = (np.abs(got.astype(want.dtype) - want) * want.dtype.type(1 / limits.epsilon)).astype(np.float64)
        relative = missed / size
        ulp = missed / binade(size)
    strange = ~np.isfinite(relative)
    if strange.any():
        beyond = np.abs(want) / (1 + want.dtype.type(limits.epsilon) / 4) >= limits.largest
        right = (np.isnan(got) & np.isnan(want)) | (np.isinf(got) & beyond & (np.sign(got) == np.sign(want)))
        for error in (relative, ulp):
            error[strange] = np.where(right[strange], 0.0, math.inf)
    return ulp, relative


def exact_errors(got, want, limits, scale=None):
    """The same of one float against an mpmath number."""
    if not (EXACT.isfinite(want) and math.isfinite(got)):
        beyond = abs(want) >= EXACT.mpf(limits.largest) * (1 + EXACT.mpf(limits.epsilon) / 4)
        right = (math.isnan(got) and EXACT.isnan(want)) or (math.isinf(got) and beyond and (got > 0) == (want > 0))
        return (0.0, 0.0) if right else (math.inf, math.inf)
    size = max(abs(want if scale is None else scale), EXACT.mpf(limits.least))
    missed = abs(EXACT.mpf(got) - want) / EXACT.mpf(limits.epsilon)
    return float(missed / EXACT.ldexp(1, int(EXACT.floor(EXACT.log(size, 2))))), float(missed / size)
