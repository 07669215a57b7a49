from qin.serving.scorer import Scorer as Scorer
