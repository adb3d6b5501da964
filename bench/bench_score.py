"""The score card: every figure from one pass."""


def test_score_card(time_case, case, contender):
    time_case(case, contender)
