"""Losses with their gradient."""


def test_gradient(time_case, case, contender):
    time_case(case, contender)
