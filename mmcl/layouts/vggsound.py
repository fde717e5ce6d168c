"""VGGSound: clips of YouTube of 309 kinds of sounds."""

from collections.abc import Iterator
from typing import Literal

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, filled

COLUMNS = ["youtube_id", "start", "label", "split"]


@LAYOUTS.register("vggsound")
class Vggsound(Layout):
    """The table of VGGSound, and a folder of the sounds of the clips that could be fetched.

    A sample has the sound, under the extension of its file, and ``json``: ``label``, as the table writes it,
    ``youtube_id``, ``start``. Clips that were taken down are left out and counted. (The clips are videos; take their
    sound out first, by ffmpeg for one.)

    Args:
        table: without a header: id, second at which the clip begins, label, split.
        clips: where a clip lies; ``{youtube_id}`` and ``{start}`` (a number, as in ``{start:06d}``) are filled in.
        split: ``test`` or ``train``.

    Reference:
        Chen et al., "VGGSound: A Large-scale Audio-Visual Dataset", ICASSP 2020. https://arxiv.org/abs/2004.14368
    """

    loses = "clips of YouTube are taken down"

    def __init__(
        self,
        table: str = "vggsound.csv",
        clips: str = "audio/{youtube_id}_{start:06d}.wav",
        split: Literal["test", "train"] = "test",
    ) -> None:
        self.table, self.clips, self.split = table, clips, split

    def holds(self) -> list[str]:
        """The table and the clips."""
        return [self.table, self.clips]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a clip of the split."""
        for row in folder.table(self.table, COLUMNS, header=False):
            if row["split"] != self.split:
                continue
            if not row["start"].isdigit():
                raise MmclError(f"{folder.root / self.table}: {row['start']!r} is no number of seconds.")
            known = {"youtube_id": row["youtube_id"], "start": int(row["start"])}
            file = folder.media(filled(self.clips, known, "clips"))
            yield {
                "__key__": f"Y{row['youtube_id']}_{known['start']}",
                file.extension: file,
                "json": {"label": row["label"], **known},
            }
