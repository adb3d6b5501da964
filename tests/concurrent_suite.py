"""Everything at once from 32 threads, and a user's own parallel loop: each result as it is alone. A program of its own.

Prints the threading layer and a digest of all results.
"""

import concurrent.futures
import hashlib
import itertools
import random
import sys
import warnings

import bits_suite
import numba
import numpy as np
from guarded_suite import compare_calls, layout_calls, linear_calls, make_case

from fastxent.kernels import row_cross_entropy, row_softmax

THREADS = 32


def calls():
    """Calls on rows enough for parallel loops, and on few."""
    for n, c in ((4000, 12), (30, 70)):
        case = make_case(n, c, np.dtype("f4"), np.random.default_rng(c))
        every = [bits_suite.calls(case), bits_suite.score_calls(case), linear_calls(case)]
        if n < 100:
            every += [layout_calls(case), compare_calls(case)]
        for name, function, arguments, options in itertools.chain(*every):
            if "out" not in options and "in place" not in name:  # each call would want its own
                yield function, arguments, options


@numba.njit(parallel=True)
def users_loop(z, y, out, q):
    for i in numba.prange(len(z)):
        out[i] = row_cross_entropy(z[i], y[i])
        row_softmax(z[i], q[i])


def main():
    every = list(calls())
    alone = [bits_suite.digest(function(*arguments, **options)) for function, arguments, options in every]

    def all_of_them(seed):
        order = list(range(len(every)))
        random.Random(seed).shuffle(order)
        found = [""] * len(every)
        for k in order:
            function, arguments, options = every[k]
            found[k] = bits_suite.digest(function(*arguments, **options))
        return found

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(all_of_them, range(THREADS)):
            different = [k for k in range(len(every)) if found[k] != alone[k]]
            assert not different, [every[k][0] for k in different]
    z, y = np.random.default_rng(0).standard_normal((5000, 12)), np.arange(5000) % 12
    out, q = np.empty(5000), np.empty_like(z)
    users_loop(z, y, out, q)
    digest = hashlib.sha256("".join(alone).encode() + out.tobytes() + q.tobytes()).hexdigest()
    print(numba.threading_layer(), len(every) * THREADS, digest)


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.exit(main())
