"""What pulls embeddings together and apart: score x contrast x negatives over pairs of modalities, in weighted terms.

A new member is one file in ``scores/`` or ``contrasts/``, one import below, and its test.
"""

from mmcl.losses.base import CONTRASTS, SCORES, Contrast, LossOutput, Score
from mmcl.losses.contrasts.softmax import Softmax
from mmcl.losses.objective import Objective, ObjectiveSpec, check_objective, presets
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.temperature import Temperature, TemperatureSpec
from mmcl.losses.term import Term, TermSpec

__all__ = [
    "CONTRASTS",
    "SCORES",
    "Contrast",
    "Cosine",
    "LossOutput",
    "Objective",
    "ObjectiveSpec",
    "Score",
    "Softmax",
    "Temperature",
    "TemperatureSpec",
    "Term",
    "TermSpec",
    "check_objective",
    "presets",
]
