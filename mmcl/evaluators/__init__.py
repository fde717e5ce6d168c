"""How to measure: pure functions of embeddings and labels, and the parts that name them in a task."""

from mmcl.evaluators.association import Association
from mmcl.evaluators.base import (
    EVALUATORS,
    Confusion,
    Embedded,
    Embedder,
    Evaluator,
    EvaluatorPart,
    Example,
    Findings,
    Items,
    View,
)
from mmcl.evaluators.bias import WEAT
from mmcl.evaluators.choice import Choice
from mmcl.evaluators.few_shot import FewShot
from mmcl.evaluators.figures import Figure, intervals
from mmcl.evaluators.geometry import Geometry
from mmcl.evaluators.knn import NearestNeighbours
from mmcl.evaluators.linear_probe import LinearProbe
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.robustness import Robustness
from mmcl.evaluators.transfer import Transfer
from mmcl.evaluators.winoground import Winoground
from mmcl.evaluators.zeroshot import ZeroShot

__all__ = [
    "EVALUATORS",
    "WEAT",
    "Association",
    "Choice",
    "Confusion",
    "Embedded",
    "Embedder",
    "Evaluator",
    "EvaluatorPart",
    "Example",
    "FewShot",
    "Figure",
    "Findings",
    "Geometry",
    "Items",
    "LinearProbe",
    "NearestNeighbours",
    "Retrieval",
    "Robustness",
    "Transfer",
    "View",
    "Winoground",
    "ZeroShot",
    "intervals",
]
