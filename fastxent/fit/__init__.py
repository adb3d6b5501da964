"""Models fitted by maximum likelihood: calibration of a classifier's logits, and multinomial logistic regression."""

from fastxent.fit.evaluation import Calibration
from fastxent.fit.inference import Summary
from fastxent.fit.priors import Gaussian, Laplace
from fastxent.fit.softmax_regression import SoftmaxRegression
from fastxent.fit.temperature import TemperatureScaling
from fastxent.fit.vector import VectorScaling

__all__ = [
    "Calibration",
    "Gaussian",
    "Laplace",
    "SoftmaxRegression",
    "Summary",
    "TemperatureScaling",
    "VectorScaling",
]
