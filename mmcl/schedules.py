"""Learning-rate schedules that a recipe may name: warm-up, a level, and a fall."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field, PlainValidator, SerializeAsAny

from mmcl.errors import MmclError
from mmcl.registry import Part, Registry


def _span(value: Any) -> float:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and value >= 0) and not (isinstance(value, float) and 0 <= value < 1):
        raise MmclError(f"say a share of all steps, below 1, or a whole number of steps; got {value!r}.")
    return value


Span = Annotated[float | int, PlainValidator(_span)]
"""How long: a number below 1 is a share of all steps, a whole number from 1 on is a number of steps."""
Factor = Annotated[float, Field(ge=0, le=1)]
Shape = Literal["linear", "cosine", "1-sqrt"]
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "1-sqrt": lambda t: 1 - math.sqrt(t),
}
"""From 1 at 0 to 0 at 1."""


@runtime_checkable
class Schedule(Protocol):
    """The learning rate's factor over a run."""

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all.

        Raises:
            MmclError: the parts of the schedule do not fit into so many steps.
        """
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule")
SchedulePart = Annotated[SerializeAsAny[Part], PlainValidator(SCHEDULES.check)]


@SCHEDULES.register("cosine")
class Cosine:
    r"""Linear warm-up, then half a cosine over the rest of the run.

    .. math:: f(s) = \frac{s+1}{w} \;(s < w), \qquad
              f(s) = f_e + \tfrac{1-f_e}{2}\left(1 + \cos\frac{\pi (s-w)}{S-w}\right)

    Use when: the length of the run is known. CLIP, OpenCLIP and most of the field train so.

    Args:
        warmup: over how long the rate rises: below 1 a share of all steps, a whole number from 1 on so many steps.
        end: factor that it falls to; it would be reached one step after the last.

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5, without
        restarts. https://arxiv.org/abs/1608.03983
    """

    def __init__(self, warmup: Span = 0.1, end: Factor = 0.0) -> None:
        self.warmup, self.end = warmup, end

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        rise = phases(self.warmup, None, steps)[0]
        return at(step, steps, rise, rise, "cosine", self.end)


@SCHEDULES.register("linear")
class Linear:
    r"""Linear warm-up, then a straight fall over the rest of the run.

    .. math:: f(s) = \frac{s+1}{w} \;(s < w), \qquad f(s) = f_e + (1-f_e)\left(1 - \frac{s-w}{S-w}\right)

    Use when: a recipe is followed that says so (adapters and fine-tuning mostly do).

    Args:
        warmup: over how long the rate rises: below 1 a share of all steps, a whole number from 1 on so many steps.
        end: factor that it falls to; it would be reached one step after the last.
    """

    def __init__(self, warmup: Span = 0.1, end: Factor = 0.0) -> None:
        self.warmup, self.end = warmup, end

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        rise = phases(self.warmup, None, steps)[0]
        return at(step, steps, rise, rise, "linear", self.end)


@SCHEDULES.register("constant")
class Constant:
    r"""Linear warm-up, then the full rate to the end.

    .. math:: f(s) = \min\left(\frac{s+1}{w}, 1\right)

    Use when: somebody else ends the run, or the average of the weights (``training.ema``) is what is measured. With a
        cooldown it is ``wsd``.

    Args:
        warmup: over how long the rate rises: below 1 a share of all steps, a whole number from 1 on so many steps.
    """

    def __init__(self, warmup: Span = 0.1) -> None:
        self.warmup = warmup

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        return at(step, steps, phases(self.warmup, None, steps)[0], steps, "linear", 0.0)


@SCHEDULES.register("wsd")
class WarmupStableDecay:
    r"""Linear warm-up, the full rate, and a fall over the last ``cooldown`` steps (constant with cooldown).

    .. math:: f(s) = \frac{s+1}{w} \;(s < w), \qquad f(s) = 1 \;(w \le s < S-c), \qquad
              f(s) = f_e + (1-f_e)\, g(t), \; t = \frac{s-(S-c)}{c}

    with :math:`g(t)` as ``shape`` says: :math:`1-\sqrt t` (``1-sqrt``), :math:`1-t` (``linear``), or
    :math:`\tfrac12 (1+\cos \pi t)` (``cosine``).

    Use when: the length of the run is not known yet. A checkpoint from before the cooldown goes on in a longer run
        as if it had been planned so, if ``warmup`` is a number of steps.

    Args:
        warmup: over how long the rate rises: below 1 a share of all steps, a whole number from 1 on so many steps.
        cooldown: over how long it falls, said in the same way.
        shape: of the fall.
        end: factor that it falls to; it would be reached one step after the last.

    Reference:
        Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024,
        section 3 (the shapes, and that a fifth of the run is enough). https://arxiv.org/abs/2405.18392
        Hu et al., "MiniCPM", COLM 2024, section 4 (the name). https://arxiv.org/abs/2404.06395
    """

    def __init__(self, warmup: Span = 0.1, cooldown: Span = 0.2, shape: Shape = "1-sqrt", end: Factor = 0.0) -> None:
        self.warmup, self.cooldown, self.shape, self.end = warmup, cooldown, shape, end

    def factor(self, step: int, steps: int) -> float:
        """Factor at a step, of ``steps`` in all."""
        rise, fall = phases(self.warmup, self.cooldown, steps)
        return at(step, steps, rise, fall, self.shape, self.end)


def at(step: int, steps: int, rise: int, fall: int, shape: str, end: float) -> float:
    """Factor at a step: it rises before ``rise``, is 1 before ``fall``, and then falls to ``end`` at ``steps``."""
    if step < rise:
        return (step + 1) / rise
    if step < fall:
        return 1.0
    return end + (1 - end) * SHAPES[shape]((step - fall) / max(steps - fall, 1))


def phases(warmup: float, cooldown: float | None, steps: int) -> tuple[int, int]:
    """The step before which the rate rises, and the step from which on it falls.

    Args:
        warmup: see `Span`.
        cooldown: the same; None where the schedule has none of its own.
        steps: of the run.

    Raises:
        MmclError: both together are longer than the run, or the warm-up alone is the whole of it.
    """
    rise, fall = counted(warmup, steps), counted(cooldown or 0, steps)
    if isinstance(warmup, float) and isinstance(cooldown, float) and warmup + cooldown <= 1:
        fall = min(fall, steps - rise)  # two shares may both be rounded up
    if isinstance(warmup, int) and rise >= steps:
        raise MmclError(f"a warmup of {rise} steps is all of a run of {steps}; make it shorter, or the run longer.")
    if rise + fall > steps:
        raise MmclError(f"warmup ({rise} steps) and cooldown ({fall}) are longer than the {steps} steps of the run.")
    return rise, steps - fall


def counted(span: float, steps: int) -> int:
    """Steps of a `Span`."""
    return span if isinstance(span, int) else round(span * steps)
