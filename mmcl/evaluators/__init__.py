"""How to measure: pure functions of embeddings and labels, and the parts that name them in a task."""

from mmcl.evaluators.association import Association
from mmcl.evaluators.base import EVALUATORS, RAW, Embedded, Embedder, Evaluator, EvaluatorPart, Example
from mmcl.evaluators.choice import Choice
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.winoground import Winoground
from mmcl.evaluators.zeroshot import ZeroShot

__all__ = [
    "EVALUATORS",
    "RAW",
    "Association",
    "Choice",
    "Embedded",
    "Embedder",
    "Evaluator",
    "EvaluatorPart",
    "Example",
    "Retrieval",
    "Winoground",
    "ZeroShot",
]
