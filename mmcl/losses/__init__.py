"""What pulls embeddings together and apart.

Score x contrast x targets over the matrices of a view, losses of several views at once, and regularizers. A new
member is one file in ``scores/``, ``contrasts/``, ``multiview/`` or ``regularizers/``, one import below, and its test.
"""

from mmcl.losses.base import CONTRASTS, SCORES, Contrast, LossOutput, Score, Side
from mmcl.losses.contrasts.cacr import Cacr
from mmcl.losses.contrasts.debiased import Debiased
from mmcl.losses.contrasts.decoupled import Decoupled
from mmcl.losses.contrasts.focal import Focal
from mmcl.losses.contrasts.groco import Groco
from mmcl.losses.contrasts.hard_negative import HardNegative
from mmcl.losses.contrasts.hinge import Hinge
from mmcl.losses.contrasts.isogclr import Isogclr
from mmcl.losses.contrasts.margin import Margin
from mmcl.losses.contrasts.sigmoid import Sigmoid
from mmcl.losses.contrasts.softmax import Softmax
from mmcl.losses.contrasts.sogclr import Sogclr
from mmcl.losses.contrasts.spectral import Spectral
from mmcl.losses.diagnostics import diagnostics, gradient_norms
from mmcl.losses.multiview.base import MULTI_VIEWS, MultiView, MultiViewSpec, MultiViewTerm, Views
from mmcl.losses.multiview.mv_dhel import MvDhel
from mmcl.losses.multiview.mv_infonce import MvInfoNce
from mmcl.losses.multiview.poly import Poly
from mmcl.losses.negatives.base import NEGATIVES, Negatives
from mmcl.losses.negatives.batch import Distinct, InBatch, InModal, Provided, TooAlike
from mmcl.losses.negatives.mixed import Mixed
from mmcl.losses.negatives.null_anchor import NullAnchor
from mmcl.losses.negatives.queue import Bank, Queue
from mmcl.losses.objective import Objective, ObjectiveSpec, check_objective, presets, with_presets
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
from mmcl.losses.targets.base import TARGETS, Targets
from mmcl.losses.targets.congrat import Congrat
from mmcl.losses.targets.graded import Graded
from mmcl.losses.targets.hard import Identity, Shared
from mmcl.losses.targets.neighbours import Neighbours
from mmcl.losses.targets.soft import Cwcl, Soft
from mmcl.losses.temperature import Temperature, TemperatureSpec
from mmcl.losses.term import Term
from mmcl.losses.term_spec import TermSpec
from mmcl.losses.transforms.base import TRANSFORMS, EmbeddingTransform
from mmcl.losses.transforms.heads import Heads
from mmcl.losses.transforms.matryoshka import Matryoshka
from mmcl.losses.transforms.mixup import Mixup
from mmcl.losses.transforms.swap import Swap
from mmcl.losses.transforms.whitening import Whitening
from mmcl.losses.views import VIEWS, Captions, Pairs, Rotating, Star, Tuple, View
from mmcl.losses.walk import Mask, Walk

__all__ = [
    "CONTRASTS",
    "MULTI_VIEWS",
    "NEGATIVES",
    "REGULARIZERS",
    "SCORES",
    "TARGETS",
    "TRANSFORMS",
    "VIEWS",
    "Alignment",
    "Bank",
    "Barlow",
    "Cacr",
    "Captions",
    "Care",
    "Clusters",
    "Congrat",
    "Consistency",
    "Contrast",
    "Cosine",
    "Covariance",
    "CrossUniformity",
    "Cwcl",
    "Debiased",
    "Decoupled",
    "Distinct",
    "EmbeddingTransform",
    "Entailment",
    "Focal",
    "Graded",
    "Gram",
    "Groco",
    "HardNegative",
    "Heads",
    "Hinge",
    "Identity",
    "InBatch",
    "InModal",
    "Instance",
    "Isogclr",
    "Kernel",
    "Koleo",
    "Lorentz",
    "LossOutput",
    "Margin",
    "Mask",
    "Matching",
    "Matryoshka",
    "Mixed",
    "Mixup",
    "MultiView",
    "MultiViewSpec",
    "MultiViewTerm",
    "MvDhel",
    "MvInfoNce",
    "Negatives",
    "Neighbours",
    "NullAnchor",
    "Objective",
    "ObjectiveSpec",
    "Pairs",
    "Poly",
    "Provided",
    "Queue",
    "Regularizer",
    "RegularizerSpec",
    "RegularizerTerm",
    "Rotating",
    "Score",
    "ScoreMatrix",
    "Shared",
    "Side",
    "Sigmoid",
    "Soft",
    "Softmax",
    "Sogclr",
    "Span",
    "Spectral",
    "Star",
    "Statistic",
    "Structure",
    "Swap",
    "Swapped",
    "Symile",
    "Targets",
    "Temperature",
    "TemperatureSpec",
    "Term",
    "TermSpec",
    "TooAlike",
    "Triangle",
    "Tuple",
    "Uniformity",
    "Variance",
    "View",
    "Views",
    "Walk",
    "Whitening",
    "check_objective",
    "diagnostics",
    "gradient_norms",
    "presets",
    "with_presets",
]
