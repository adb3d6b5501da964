"""fastxent in other libraries' places: scikit-learn's metrics, torch's losses, objectives of XGBoost and LightGBM."""


def test_adapter(time_case, case, contender):
    time_case(case, contender)
