"""Derive the polynomial coefficients in fastxent/kernels/elementary.py: `python ci/derive_constants.py` prints them.

exp: minimax (Remez) of (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2], or an eighth of it beside a table of 2^(j/8),
weighted so that the relative error of e^r levels.

log1p in float32: minimax of (ln(1 + f) - f) / f^2 on [sqrt(1/2) - 1, sqrt(2) - 1], weighted likewise.
"""

import mpmath

mpmath.mp.dps = 60


def remez(function, weight, low, high, degree):
    """Coefficients c (c[0] first) that minimise max |weight(x) (function(x) - sum c_k x^k)|, and that maximum."""
    n = degree + 2
    points = [(low + high) / 2 - (high - low) / 2 * mpmath.cos(mpmath.pi * i / (n - 1)) for i in range(n)]
    for _ in range(12):
        rows = [[weight(x) * x**k for k in range(degree + 1)] + [(-1) ** i] for i, x in enumerate(points)]
        solution = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix([weight(x) * function(x) for x in points]))
        coefficients = list(solution[: degree + 1])

        def error(x, c=coefficients):
            return weight(x) * (function(x) - mpmath.polyval(c[::-1], x))

        grid = [low + (high - low) * i / 2000 for i in range(2001)]
        values = [error(x) for x in grid]
        extremes = [
            grid[i]
            for i in range(len(grid))
            if (i == 0 or abs(values[i]) >= abs(values[i - 1]) or values[i] * values[i - 1] < 0)
            and (i == len(grid) - 1 or abs(values[i]) >= abs(values[i + 1]) or values[i] * values[i + 1] < 0)
            and values[i] != 0
        ]
        alternating = [extremes[0]]
        for x in extremes[1:]:
            if error(x) * error(alternating[-1]) < 0:
                alternating.append(x)
            elif abs(error(x)) > abs(error(alternating[-1])):
                alternating[-1] = x
        while len(alternating) > n:
            alternating.pop(0 if abs(error(alternating[0])) < abs(error(alternating[-1])) else -1)
        if len(alternating) < n:
            break
        points = alternating
    return coefficients, max(abs(v) for v in values)


def main():
    slack = mpmath.mpf("1.001")  # the reduced argument may pass its interval by a rounding

    def tail(r):
        return (mpmath.exp(r) - 1 - r) / r**2 if abs(r) > 1e-12 else mpmath.mpf(1) / 2 + r / 6

    for name, degree, parts in (
        ("EXP32, eight powers", 1, 8),
        ("EXP32", 4, 1),
        ("EXP64, eight powers", 5, 8),
        ("EXP64", 9, 1),
    ):
        half = mpmath.log(2) / (2 * parts) * slack
        coefficients, worst = remez(tail, lambda r: r**2 / mpmath.exp(r), -half, half, degree)
        print(f"{name}: degree {degree + 2} in all, relative error 2^{mpmath.nstr(mpmath.log(worst, 2), 5)}")
        print("   ", ", ".join(mpmath.nstr(c, 20) for c in coefficients))
    print("2^(j/8):", ", ".join(repr(float(mpmath.mpf(2) ** (mpmath.mpf(j) / 8))) for j in range(8)))

    def log_tail(f):
        return (mpmath.log1p(f) - f) / f**2 if abs(f) > 1e-12 else -mpmath.mpf(1) / 2 + f / 3

    ends = [(mpmath.sqrt(x) - 1) * mpmath.mpf("1.00001") for x in (mpmath.mpf(1) / 2, 2)]
    coefficients, worst = remez(log_tail, lambda f: abs(f**2 / mpmath.log1p(f)) if f else mpmath.mpf(0), *ends, 8)
    print(f"LOG32: degree 10 in all, relative error 2^{mpmath.nstr(mpmath.log(worst, 2), 5)}")
    print("   ", ", ".join(mpmath.nstr(c, 20) for c in coefficients))


if __name__ == "__main__":
    main()
