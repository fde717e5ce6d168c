"""How to measure: pure functions of embeddings and labels, and the parts that name them in a task."""

from mmcl.evaluators.base import EVALUATORS, RAW, Embedded, Embedder, Evaluator, EvaluatorPart, Example
from mmcl.evaluators.few_shot import FewShot
from mmcl.evaluators.knn import NearestNeighbours
from mmcl.evaluators.linear_probe import LinearProbe
from mmcl.evaluators.retrieval import Retrieval
from mmcl.evaluators.transfer import Transfer
from mmcl.evaluators.zeroshot import ZeroShot

__all__ = [
    "EVALUATORS",
    "RAW",
    "Embedded",
    "Embedder",
    "Evaluator",
    "EvaluatorPart",
    "Example",
    "FewShot",
    "LinearProbe",
    "NearestNeighbours",
    "Retrieval",
    "Transfer",
    "ZeroShot",
]
