"""What pulls embeddings together and apart: score x contrast x targets over the matrices of a view, and regularizers.

A new member is one file in ``scores/``, ``contrasts/`` or ``regularizers/``, one import below, and its test.
"""

from mmcl.losses.base import CONTRASTS, SCORES, Contrast, LossOutput, Score, Side
from mmcl.losses.contrasts.cacr import Cacr
from mmcl.losses.contrasts.debiased import Debiased
from mmcl.losses.contrasts.decoupled import Decoupled
from mmcl.losses.contrasts.focal import Focal
from mmcl.losses.contrasts.hard_negative import HardNegative
from mmcl.losses.contrasts.hinge import Hinge
from mmcl.losses.contrasts.margin import Margin
from mmcl.losses.contrasts.sigmoid import Sigmoid
from mmcl.losses.contrasts.softmax import Softmax
from mmcl.losses.contrasts.spectral import Spectral
from mmcl.losses.diagnostics import diagnostics, gradient_norms
from mmcl.losses.objective import Objective, ObjectiveSpec, check_objective, presets
from mmcl.losses.regularizers.alignment import Alignment
from mmcl.losses.regularizers.base import REGULARIZERS, Regularizer, RegularizerSpec, RegularizerTerm
from mmcl.losses.regularizers.clusters import Clusters
from mmcl.losses.regularizers.consistency import Care, Consistency
from mmcl.losses.regularizers.distillation import Instance, Structure
from mmcl.losses.regularizers.entailment import Entailment
from mmcl.losses.regularizers.koleo import Koleo
from mmcl.losses.regularizers.matching import Matching
from mmcl.losses.regularizers.moments import Barlow, Covariance, Variance
from mmcl.losses.regularizers.score_matrix import ScoreMatrix
from mmcl.losses.regularizers.swapped import Swapped
from mmcl.losses.regularizers.uniformity import CrossUniformity, Uniformity
from mmcl.losses.scores.cosine import Cosine
from mmcl.losses.scores.gram import Gram, Span
from mmcl.losses.scores.kernel import Kernel
from mmcl.losses.scores.lorentz import Lorentz
from mmcl.losses.scores.symile import Symile
from mmcl.losses.scores.triangle import Triangle
from mmcl.losses.statistics import Statistic
from mmcl.losses.temperature import Temperature, TemperatureSpec
from mmcl.losses.term import Term, TermSpec
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform
from mmcl.losses.transforms.matryoshka import Matryoshka
from mmcl.losses.views import VIEWS, Pairs, Rotating, Star, Tuple, View
from mmcl.losses.walk import Mask, Walk

__all__ = [
    "CONTRASTS",
    "REGULARIZERS",
    "SCORES",
    "TRANSFORMS",
    "VIEWS",
    "Alignment",
    "Barlow",
    "Cacr",
    "Care",
    "Clusters",
    "Consistency",
    "Contrast",
    "Cosine",
    "Covariance",
    "CrossUniformity",
    "Debiased",
    "Decoupled",
    "EmbeddingTransform",
    "Entailment",
    "Focal",
    "Gram",
    "HardNegative",
    "Hinge",
    "Instance",
    "Kernel",
    "Koleo",
    "Lorentz",
    "LossOutput",
    "Margin",
    "Mask",
    "Matching",
    "Matryoshka",
    "Objective",
    "ObjectiveSpec",
    "Pairs",
    "Regularizer",
    "RegularizerSpec",
    "RegularizerTerm",
    "Rotating",
    "Score",
    "ScoreMatrix",
    "Side",
    "Sigmoid",
    "Softmax",
    "Span",
    "Spectral",
    "Star",
    "Statistic",
    "Structure",
    "Swapped",
    "Symile",
    "Temperature",
    "TemperatureSpec",
    "Term",
    "TermSpec",
    "Triangle",
    "Tuple",
    "Uniformity",
    "Variance",
    "View",
    "Walk",
    "check_objective",
    "diagnostics",
    "gradient_norms",
    "presets",
]
