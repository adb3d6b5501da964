"""logsumexp, softmax and log_softmax."""


def test_transform(time_case, case, contender):
    time_case(case, contender)
