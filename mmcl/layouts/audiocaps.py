"""AudioCaps: clips of YouTube with captions by people."""

from collections.abc import Iterator

from mmcl.errors import MmclError
from mmcl.layouts.base import LAYOUTS, Layout, Row
from mmcl.layouts.folder import Folder, filled

COLUMNS = ["audiocap_id", "youtube_id", "start_time", "caption"]


@LAYOUTS.register("audiocaps")
class Audiocaps(Layout):
    """The table of AudioCaps, and a folder of the clips that could be fetched.

    Rows of one clip (five in the test split) become one sample: the clip, under the extension of its file, and
    ``json``: ``captions`` (a list, in the table's order), ``youtube_id``, ``start_time``. Clips that were taken down
    are left out and counted.

    Args:
        captions: the table.
        clips: where a clip lies; ``{youtube_id}``, ``{start_time}`` (a number of seconds, as in ``{start_time:06d}``)
            and ``{audiocap_id}`` (of its first row) are filled in.

    Reference:
        Kim et al., "AudioCaps: Generating Captions for Audios in The Wild", NAACL 2019.
        https://github.com/cdjkim/audiocaps
    """

    loses = "clips of YouTube are taken down"

    def __init__(self, captions: str = "test.csv", clips: str = "audio/{youtube_id}.wav") -> None:
        self.captions, self.clips = captions, clips

    def holds(self) -> list[str]:
        """The table and the clips."""
        return [self.captions, self.clips]

    def rows(self, folder: Folder) -> Iterator[Row]:
        """A sample a clip, in the order of their first captions."""
        clips: dict[tuple[str, str], list[dict[str, str]]] = {}
        for row in folder.table(self.captions, COLUMNS):
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row)
        for (youtube_id, start), captions in clips.items():
            if not start.isdigit():
                raise MmclError(f"{folder.root / self.captions}: start_time {start!r} is no number of seconds.")
            known = {**captions[0], "start_time": int(start)}
            known.pop("caption")
            file = folder.media(filled(self.clips, known, "clips"))
            said = {"captions": [row["caption"] for row in captions], "youtube_id": youtube_id}
            yield {
                "__key__": f"Y{youtube_id}_{start}",
                file.extension: file,
                "json": {**said, "start_time": int(start)},
            }
