"""Models fitted by maximum likelihood: calibration of a classifier's logits, and multinomial logistic regression."""

from fastxent.fit.evaluation import Calibration
from fastxent.fit.temperature import TemperatureScaling
from fastxent.fit.vector import VectorScaling

__all__ = ["Calibration", "TemperatureScaling", "VectorScaling"]
