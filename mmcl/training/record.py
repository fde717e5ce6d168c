"""The record of a step: what all processes have of a batch, on each of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl import distributed, marks
from mmcl.types import Batch, Embeddings, Mixed


def gathered(
    vectors: Mapping[str, Tensor],
    batch: Batch,
    names: Sequence[str],
    dim: int,
    device: torch.device,
    extras: Mapping[str, Tensor] | None = None,
    mixed: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Embeddings:
    """The record of this step: all rows of all processes, absent ones zero, in one collective for each kind of thing.

    Args:
        vectors: of the rows that are present, by name.
        batch: this process's rows.
        names: modalities and copies, in the order that every process agrees on.
        dim: width of the shared space.
        device: of the towers.
        extras: a row for each of this process's, on the device, in an order that every process agrees on; those of the
            average of the towers (`ema.NAME`) are there where NAME is.
        mixed: the partner among this process's rows, and the weight, of each of its rows of a modality that was mixed.
    """
    extras = extras or {}
    local = placed(vectors, batch, names, dim, device)
    if not local.requires_grad:  # every process takes part in the backward collective
        local.requires_grad_()
    if marks.listened():  # once all that the objective owes to the vectors is there
        local.register_hook(lambda _: marks.turn("objective: backward", "towers: backward"))
    everyone = distributed.gather(local, batch.size)
    there = [*names, *extras]
    present = torch.stack([batch.present[name.removeprefix("ema.")] for name in there], dim=1)
    all_present = distributed.gather(present.to(device, non_blocking=True), batch.size)
    single = distributed.world_size() == 1
    rows = dict(zip(names, everyone.unbind(1), strict=True))
    return Embeddings(
        local=rows if single else dict(zip(names, local.unbind(1), strict=True)),
        all=rows,
        present=dict(zip(there, all_present.unbind(1), strict=True)),
        ids=distributed.gather(batch.ids.to(device, non_blocking=True), batch.size),
        offset=batch.offset,
        total=distributed.total,
        extras=_gathered_extras(extras, batch.size),
        mixed={m: _gathered_mixture(*drawn, batch, device) for m, drawn in (mixed or {}).items()},
    )


def placed(vectors: Mapping[str, Tensor], batch: Batch, names: Sequence[str], dim: int, device: torch.device) -> Tensor:
    """Vectors of the rows that are present, each in its place in zeros of (rows, names, dim)."""
    dtype = next((rows.dtype for rows in vectors.values()), torch.float32)
    room = torch.zeros(len(batch), len(names), dim, dtype=dtype, device=device)
    there = {name: batch.present[name].nonzero()[:, 0] for name in names if name in vectors}
    if not there:
        return room
    rows = torch.cat(list(there.values()))
    columns = torch.cat([torch.full_like(own, names.index(name)) for name, own in there.items()])
    places = rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)
    return room.index_put(places, torch.cat([vectors[name] for name in there]))


def _gathered_mixture(partner: Tensor, weight: Tensor, batch: Batch, device: torch.device) -> Mixed:
    places, weights = (partner + batch.offset).to(device, non_blocking=True), weight.to(device, non_blocking=True)
    return Mixed(distributed.gather(places, batch.size), distributed.gather(weights, batch.size))


def _gathered_extras(extras: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Extras of all processes, side by side in one collective."""
    if not extras or distributed.world_size() == 1:
        return dict(extras)
    wide = {name: x if x.ndim > 1 else x[:, None] for name, x in extras.items()}
    everyone = distributed.gather(torch.cat(list(wide.values()), dim=1), rows)
    parts = everyone.split([x.shape[1] for x in wide.values()], dim=1)
    return {name: part if x.ndim > 1 else part[:, 0] for (name, x), part in zip(extras.items(), parts, strict=True)}
