"""Comparisons of models: every figure from one pass."""


def test_compare(time_case, case, contender):
    time_case(case, contender)
