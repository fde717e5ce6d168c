"""How to measure: pure functions of embeddings and labels, and the parts that name them in a task."""

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
from mmcl.evaluators.figures import Figure, intervals
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.zeroshot import ZeroShot

__all__ = [
    "EVALUATORS",
    "Confusion",
    "Embedded",
    "Embedder",
    "Evaluator",
    "EvaluatorPart",
    "Example",
    "Figure",
    "Findings",
    "Items",
    "Retrieval",
    "View",
    "ZeroShot",
    "intervals",
]
