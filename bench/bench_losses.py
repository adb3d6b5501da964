"""Cross-entropy of labels and distributions, log loss of probabilities, the binary loss, a gather."""


def test_loss(time_case, case, contender):
    time_case(case, contender)
