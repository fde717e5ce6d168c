"""What of the data could not be used: counted by reason, listed in the run folder, and limited."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcl import distributed
from mmcl.errors import MmclError
from mmcl.training.progress import cut_back
from mmcl.types import Batch

ENOUGH = 1_000  # samples, before a share is judged


class BadSamples:
    """The ledger of one process; totals are over all of them.

    Args:
        path: where they are listed, a JSON object a line.
        limit: largest share of samples with something that cannot be used.
    """

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.limit = path, limit
        self.counts = Counter[str]()  # by reason; those of all processes so far where a run was resumed, on rank 0
        self.rows = 0  # of this process, with something bad, since the last row of the metrics
        self._recent = [0, 0]  # bad and all samples of all processes, since the share was judged
        self._judged = False  # ever

    def note(self, batch: Batch, step: int) -> None:
        """Count and list what could not be used in this process's rows."""
        self.rows += len({(bad.shard, bad.key) for bad in batch.bad if bad.modality})
        self.counts.update(bad.reason for bad in batch.bad)
        if batch.bad:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **bad._asdict()}) + "\n" for bad in batch.bad)

    def judge(self, bad: int, samples: int, step: int, last: bool = False) -> None:
        """See that the share is not too large, every 1,000 samples; every process must be told the same totals.

        Args:
            bad: samples with something bad since the last call, of all processes.
            samples: all samples since then.
            step: for the message.
            last: whether the run ends here; one that was too short to be judged before is judged now.

        Raises:
            MmclError: it is.
        """
        self.rows = 0
        self._recent = [self._recent[0] + bad, self._recent[1] + samples]
        bad, samples = self._recent
        if samples < ENOUGH and (self._judged or not last):
            return
        self._recent, self._judged = [0, 0], True
        if bad > self.limit * samples:
            raise MmclError(
                f"step {step}: of the last {samples:,} samples {bad:,} had something that cannot be used "
                f"(here: {self.summary()}); they are listed in {self.path}. Correct `modalities` "
                "(`mmcl data check` shows all of it), name those that may be missing as `optional`, or raise "
                f"data.max_bad from {self.limit}, and resume with the changed recipe; or mend the shards, and start a "
                "new run."
            )

    def totals(self) -> Counter[str]:
        """Counts of all processes; a collective."""
        return sum(distributed.collect(self.counts), Counter[str]())

    def summary(self) -> str:
        """This process's counts in words."""
        return in_words(self.counts)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; a collective, in which every process gets the same."""
        rows = sum(distributed.collect(self.rows))
        return {"counts": self.totals(), "rows": rows, "recent": self._recent, "judged": self._judged}

    def begin(self, step: int) -> None:
        """Leave in the file what is of the steps before, and nothing where there are none; of the first process."""
        if step:
            cut_back(self.path, step - 1)
        else:
            self.path.unlink(missing_ok=True)

    def restore(self, state: Mapping[str, Any], corrected: bool = False) -> None:
        """Go on with what was counted before a checkpoint.

        Args:
            state: of the checkpoint.
            corrected: the samples are read in another way now, so that those before say nothing of those to come.
        """
        self._recent, self._judged = [0, 0] if corrected else list(state["recent"]), bool(state["judged"])
        if distributed.rank() == 0:
            self.counts, self.rows = Counter(state["counts"]), 0 if corrected else state["rows"]


def in_words(counts: Counter[str]) -> str:
    """The most frequent reasons.

    >>> in_words(Counter({"empty text": 2, "no jpg": 3}))
    '3 no jpg, 2 empty text'
    """
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common(5)) or "none"
