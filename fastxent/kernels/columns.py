"""Exact sums of the columns of a matrix."""

import numpy as np

from fastxent.kernels.exactsum import exact_sum_add_block
from fastxent.kernels.jit import compiled
from fastxent.kernels.memory import scratch

ROWS, COLUMNS = 256, 8  # taken at a time: eight neighbours share a cache line


@compiled
def exact_sum_add_columns(states, x):
    """Add every column of float64[n, C] to its exact sum, int64[C, STATE_SIZE]."""
    n, n_columns = x.shape
    tile = scratch(np.float64, COLUMNS, ROWS)
    for start in range(0, n, ROWS):
        m = min(ROWS, n - start)
        for first in range(0, n_columns, COLUMNS):
            some = min(COLUMNS, n_columns - first)
            for i in range(m):
                for j in range(some):
                    tile[j, i] = x[start + i, first + j]
            for j in range(some):
                exact_sum_add_block(states[first + j], tile[j], m)
