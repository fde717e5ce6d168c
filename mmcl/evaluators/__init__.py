"""How to measure: pure functions of embeddings and labels, and the parts that name them in a task."""

from mmcl.evaluators.base import EVALUATORS, RAW, Embedded, Embedder, Evaluator, EvaluatorPart, Example
from mmcl.evaluators.bias import WEAT
from mmcl.evaluators.geometry import Geometry
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.robustness import Robustness
from mmcl.evaluators.zeroshot import ZeroShot

__all__ = [
    "EVALUATORS",
    "RAW",
    "WEAT",
    "Embedded",
    "Embedder",
    "Evaluator",
    "EvaluatorPart",
    "Example",
    "Geometry",
    "Retrieval",
    "Robustness",
    "ZeroShot",
]
