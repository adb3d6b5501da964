"""logsumexp and softmax."""


def test_transform(time_case, case, contender):
    time_case(case, contender)
