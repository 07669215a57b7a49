"""What settings may be; rooms import the sections from here."""

from qin.config.features import FeatureParams, ImpressionParams, SequenceParams, StatisticsParams
from qin.config.network import DROPOUTS, ModelParams, NetworkParams
from qin.config.params import (
    CalibrationParams,
    DataParams,
    EvaluateParams,
    HardNegativeParams,
    ImbalanceParams,
    Params,
    PredictParams,
    PrepareParams,
    TrackParams,
    TrainParams,
    TreeParams,
)
from qin.config.read import load_params
from qin.config.split import SplitParams

__all__ = [
    "DROPOUTS",
    "CalibrationParams",
    "DataParams",
    "EvaluateParams",
    "FeatureParams",
    "HardNegativeParams",
    "ImbalanceParams",
    "ImpressionParams",
    "ModelParams",
    "NetworkParams",
    "Params",
    "PredictParams",
    "PrepareParams",
    "SequenceParams",
    "SplitParams",
    "StatisticsParams",
    "TrackParams",
    "TrainParams",
    "TreeParams",
    "load_params",
]
