"""Programs that know a few kinds of input only, and so ask which tower takes them."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmcl.errors import MmclError
from mmcl.exports.sentence_transformers import KINDS
from mmcl.model import Encoder


def towers_by_kind(
    encoder: Encoder, told: Mapping[str, str] | None = None, kinds: Sequence[str] = KINDS
) -> dict[str, str]:
    """The modality that stands for each kind of input.

    Args:
        encoder: the model.
        told: kind -> modality, needed where several towers take the same kind.
        kinds: which ones the other program has.

    Raises:
        MmclError: a modality is told that there is not or that takes something else, several take the same kind and
            none is told, or there is nothing for any kind.
    """
    told, found = dict(told or {}), {}
    if unknown := [kind for kind in told if kind not in kinds]:
        raise MmclError(f"towers: {unknown[0]!r} is no kind of input here; they are: {', '.join(kinds)}.")
    for kind in kinds:
        able = [m for m in encoder.modalities if encoder.takes(m) == kind]
        if kind in told:
            if told[kind] not in able:
                raise MmclError(f"towers: {told[kind]!r} takes no {kind}; what does: {', '.join(able) or 'nothing'}.")
            found[kind] = told[kind]
        elif len(able) > 1:
            raise MmclError(f"{' and '.join(able)} take {kind}; say which, as in towers={{{kind!r}: {able[0]!r}}}.")
        elif able:
            found[kind] = able[0]
    if not found:
        have = ", ".join(f"{m} ({encoder.takes(m)})" for m in encoder.modalities)
        raise MmclError(f"the model has no tower for {', '.join(kinds)}; it has: {have}.")
    return found


def sound(item: object) -> tuple[object, int]:
    """(samples, rate) of ``{"array": ..., "sampling_rate": ...}``, what datasets and transformers call an audio.

    Several channels come as (channels, frames) and are averaged; integers are brought to [-1, 1] as `Sound.of` does it.

    Raises:
        MmclError: it is something else.
    """
    try:
        samples, rate = np.asarray(item["array"]), int(item["sampling_rate"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError):
        raise MmclError(
            f'a sound is {{"array": samples, "sampling_rate": rate}} here; got {type(item).__name__}.'
        ) from None
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise MmclError(f"a sound of several channels is (channels, frames) here; got {samples.shape}.")
    return samples.T, rate
