"""A row's own candidate, or all that show the same thing."""

from typing import ClassVar

from mmcl.losses.targets.base import TARGETS, Targets


@TARGETS.register("identity")
class Identity(Targets):
    r"""A row's own candidate is its only positive.

    .. math:: q_i = \mathbb{1}_i

    Use when: the default.
    Range: one positive a row.
    Related: `shared`; `negatives: distinct`, where what shows the same thing is neither positive nor negative.

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Figure 3
        (https://arxiv.org/abs/2103.00020).

    Example:
        >>> Identity().shared
        False
    """


@TARGETS.register("shared")
class Shared(Targets):
    r"""Every candidate that shows the same thing is a positive: same key, same caption, as `identity` of the data says.

    .. math:: P_i = \{ j : id_j = id_i \}

    What a contrast makes of several positives stands there (`softmax`: the mean inside or outside the logarithm).

    Use when: captions or pictures repeat, and the repeats are marked.
    Range: one positive and more.
    Related: `identity`.

    Reference:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, Eq. 2 (https://arxiv.org/abs/2004.11362); Yang
        et al., "Unified Contrastive Learning in Image-Text-Label Space", CVPR 2022, Eq. 3
        (https://arxiv.org/abs/2204.03610).

    Example:
        >>> Shared().shared
        True
    """

    shared: ClassVar[bool] = True
