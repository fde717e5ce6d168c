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
from mmcl.evaluators.figures import Figure, intervals
from mmcl.evaluators.geometry import Geometry
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.robustness import Robustness
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
    "Figure",
    "Findings",
    "Geometry",
    "Items",
    "Retrieval",
    "Robustness",
    "View",
    "Winoground",
    "ZeroShot",
    "intervals",
]
