"""fastxent in other libraries' places: scikit-learn's metrics, torch's losses with their gradients."""


def test_adapter(time_case, case, contender):
    time_case(case, contender)
