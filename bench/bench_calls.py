"""A small call: what a call itself costs."""


def test_call(time_case, case, contender):
    time_case(case, contender)
