"""fastxent in other libraries' places: scikit-learn's metrics."""


def test_adapter(time_case, case, contender):
    time_case(case, contender)
