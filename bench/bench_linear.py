"""Linear cross-entropy: hidden states times a classifier, with and without gradients."""


def test_linear(time_case, case, contender):
    time_case(case, contender)
