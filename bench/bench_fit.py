"""Softmax regression: whole fits."""


def test_fit(time_case, case, contender):
    time_case(case, contender)
