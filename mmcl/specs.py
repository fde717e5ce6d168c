"""Parts of a recipe: what to train on, how long, and what to leave behind."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mmcl.data import Batches, LastBatch, Source
from mmcl.data.remote import ShardCache, is_http, is_remote, redact
from mmcl.data.source import carried, columns
from mmcl.data.store import default_cache
from mmcl.errors import MmclError
from mmcl.registry import Spec

Count = Annotated[int, Field(ge=1)]


class CacheSpec(Spec):
    """Where remote shards are put on this machine."""

    folder: str | None = None
    """Shared by all processes of a machine; in the user's cache (`MMCL_CACHE`) unless told."""
    gigabytes: Annotated[float, Field(gt=0)] = 100
    """At most, over all shards; two windows of shards must find room."""

    def open(self) -> ShardCache:
        """The cache itself."""
        return default_cache(self.folder, self.gigabytes)


class MixSpec(Spec):
    """How rows of a modality are mixed."""

    kind: Literal["cutmix", "mixup"] = "cutmix"
    """A box of the other picture (`cutmix`), or both all over (`mixup`)."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Shares are drawn from Beta(alpha, alpha)."""
    p: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How many of the rows are mixed."""
    group: Annotated[int, Field(ge=2)] = 16
    """The other row is one of so many: blocks of the global batch that no process shares with another, so that any
    number of processes draws the same."""
    by: str | None = None
    """A modality that says how much each patch of the picture matters: a mixture's weights are then shares of what
    matters, not of the area (TiMix). Costs one more pass of both towers, without gradient."""

    @model_validator(mode="after")
    def _has_boxes(self) -> "MixSpec":
        if self.by is not None and self.kind != "cutmix":
            raise MmclError(
                f"by: {self.kind} mixes pictures all over, so that no patch is of one of them; take cutmix."
            )
        return self


class DataSpec(Spec):
    """What to train on."""

    train: Source | Annotated[list[Source], Field(min_length=1)]
    """Shards, and where the modalities lie in them; or several such sources."""
    validation: Source | Annotated[list[Source], Field(min_length=1)] | None = None
    """Samples that are held out, of which the objective's loss is measured with the tasks (`validation/loss`): shards,
    read as those of `train`; or a source, or several, that say themselves how they are read."""
    copies: dict[str, Count] = {}
    """How many of a modality the objective sees of each sample, one unless told: `image`, `image.2` and so on. Pictures
    and sounds are augmented anew; copies of a text are further captions of the sample (`captions: all`)."""
    mix: dict[str, MixSpec] = {}
    """Modalities whose rows are mixed with other rows before the towers, with targets that follow (CutMix)."""
    batch_size: Count
    """Rows of the global batch, over all processes."""
    batches: Batches = "mixed"
    """Of sources with weights: each batch is a mixture of all of them (`mixed`), or of one of them (`by_source`)."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Threads of each process that read and decode."""
    last_batch: LastBatch = "carry"
    """Of samples that do not fill a batch at the end of an epoch: go on with the next epoch's (`carry`), leave them out
    (`drop`), fill the batch with empty rows (`pad`), or make a smaller one (`keep`)."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop where more than this share of the last samples, 1,000 or more of them, had something that cannot be used."""
    cache: CacheSpec = CacheSpec()
    """Where remote shards are put."""

    @model_validator(mode="before")
    @classmethod
    def _validation_as_train(cls, value: Any) -> Any:
        """Shards alone are read as those of `train`."""
        shards = value.get("validation") if isinstance(value, dict) else None
        paths = isinstance(shards, list) and all(isinstance(one, str) for one in shards)
        if not isinstance(shards, str) and not paths:
            return value
        if not isinstance(value.get("train"), dict):
            raise MmclError("validation: `train` has several sources; say a source here, too: {shards, modalities}.")
        return {**value, "validation": {**value["train"], "shards": shards}}

    @property
    def held_out(self) -> list[Source]:
        """Sources of `validation`."""
        return self.validation if isinstance(self.validation, list) else [self.validation] if self.validation else []

    @property
    def sources(self) -> list[Source]:
        """All of them."""
        return self.train if isinstance(self.train, list) else [self.train]

    def carried(self, sources: Sequence[Source]) -> list[frozenset[str]]:
        """Modalities, and copies of them, that samples of each of some sources can have."""
        names = columns(self.sources, self.copies)
        return [carried(source, names) for source in sources]

    @property
    def modalities(self) -> list[str]:
        """Of all sources."""
        return list(dict.fromkeys(m for source in self.sources for m in source.modalities))

    @property
    def extras(self) -> list[str]:
        """Of all sources."""
        return list(dict.fromkeys(name for source in self.sources for name in source.extras))


class EmaSpec(Spec):
    """A second set of towers, whose weights are a moving average over the steps (EMA)."""

    decay: Annotated[float, Field(ge=0, lt=1)]
    """How much of the average stays at each step."""
    warmup: bool = True
    """After n steps it is (1 + n) / (10 + n) where that is less, so that the first weights are soon forgotten."""
    evaluate: bool = False
    """The tasks measure the average, and it is what `mmcl.load` and `mmcl embed` open."""

    def decay_at(self, step: int) -> float:
        """Decay after so many steps."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class BestSpec(Spec):
    """Which checkpoint is the best."""

    metric: str
    """A number of a task, as `metrics.jsonl` calls it: `glyphs/retrieval/text_to_image/recall@10`."""
    lower: bool = False
    """Smaller is better."""
    patience: Count | None = None
    """End the run after so many evaluations in a row that bring no better one; go on to the end, unless told."""


def _best(value: Any) -> Any:
    return {"metric": value} if isinstance(value, str) else value


def _ema(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | dict | EmaSpec | None):
        raise MmclError("say its decay, as in 0.999, or a mapping such as {decay: 0.999, evaluate: true}.")
    return {"decay": value} if isinstance(value, int | float) else value


class TrainingSpec(Spec):
    """How long, and what to leave behind."""

    samples: Count
    """Samples to see, repeats counted; whole batches, so up to one batch fewer."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the towers; objectives compute in fp32."""
    chunk: Count | None = None
    """Samples of a process that go through the towers at once; gradients are those of the whole batch (gradient
    caching), at one forward pass more and the memory of a chunk. All of them, where nothing is said."""
    compile: bool = False
    """Compile the blocks of the towers (torch.compile): minutes at the beginning, faster steps after."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 10
    """Steps whose loss or gradient is not finite are left out, so many in a row; after one more the run stops."""
    ema: Annotated[EmaSpec | None, BeforeValidator(_ema)] = None
    """A moving average of the towers, which an objective or the tasks look at: its decay, or a mapping."""
    log_every_steps: Count = 10
    """A row of metrics.jsonl and a line."""
    eval_every_steps: Count | None = None
    """Measure the tasks; at the end only, where nothing is said."""
    checkpoint_every_steps: Count | None = None
    """Leave a checkpoint; at the end only, where nothing is said of steps, samples and minutes."""
    checkpoint_every_samples: Count | None = None
    """Leave a checkpoint whenever so many more samples were seen."""
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Leave a checkpoint whenever so much time has passed since the last one."""
    keep_checkpoints: Count = 2
    """Older ones are removed."""
    best: Annotated[BestSpec | None, BeforeValidator(_best)] = None
    """Keep the checkpoint at which a number of a task was best, too: its name, or a mapping. Each evaluation then
    leaves a checkpoint."""
    mirror: str | None = None
    """A URL (`s3://bucket/runs/mine`) where a copy of the run folder is kept: brought up to date after each checkpoint,
    fetched with --resume where the run folder is not there any more."""
    processes: Count | None = None
    """Refuse to start with another number of processes."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Where rows go beside metrics.jsonl."""

    @field_validator("mirror")
    @classmethod
    def _mirror_is_remote(cls, value: str | None) -> str | None:
        if value is not None and (not is_remote(value) or is_http(value) or not value.partition("://")[2].strip("/")):
            said = redact(value) if "://" in value else value
            raise MmclError(
                f"{said!r} is no place for a copy: say a URL that can be written, as s3://bucket/runs/mine. On a disk "
                "that outlives the machine the run folder itself can lie: run=DIR."
            )
        return value

    @model_validator(mode="after")
    def _trackers_once(self) -> "TrainingSpec":
        if len(set(self.trackers)) < len(self.trackers):
            raise MmclError("trackers: each of them once.")
        return self

    @model_validator(mode="after")
    def _best_of_several(self) -> "TrainingSpec":
        if self.best is not None and self.eval_every_steps is None:
            raise MmclError("best: the only evaluation is that at the end; say eval_every_steps, too.")
        return self
