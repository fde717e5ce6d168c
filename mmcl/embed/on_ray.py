"""Parts on the machines of a Ray cluster: the same parts, claims and records, in actors that may die."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl import distributed
from mmcl.data import Source
from mmcl.embed.maker import Maker
from mmcl.embed.plan import Plan
from mmcl.embed.progress import Progress
from mmcl.embed.samples import Samples
from mmcl.embed.work import Work
from mmcl.errors import MmclError
from mmcl.model import Encoder

TOGETHER = 4  # parts of one call, between which nobody waits
SHARES = 4  # calls an actor gets at least, so that none is left with the last parts alone
POLL = 1.0  # seconds between looks at what is whole
PATIENCE = 10.0  # seconds until a cluster must have answered
TIMES = 10  # that Ray tries the same parts again where an actor dies over them
AGAIN = {"max_restarts": -1, "max_task_retries": TIMES}


@dataclass(frozen=True)
class Job:
    """What an actor needs to make parts."""

    source: Source
    out: Path
    plan: Plan
    workers: int


class Worker:
    """Opens the model once, and makes parts for as long as it lives. Ray starts it again where it was killed.

    Args:
        encoder: what embeds, by way of Ray's object store.
        job: what is made.
    """

    def __init__(self, encoder: Encoder, job: Job) -> None:
        encoder = Encoder(encoder.model, distributed.own_device(), encoder.batch_size)
        samples = Samples(encoder, job.source, job.plan.options.batch_size, job.workers)
        work = Work(job.out, job.plan)
        self._maker = Maker(encoder, samples, work, Progress(0, lambda: 0, show=False))

    def make(self, numbers: Sequence[int]) -> int:
        """Make those of some parts that are not whole, and say how many that were."""
        return self._maker.make(self._maker.work.missing(numbers))


def make_on_ray(
    encoder: Encoder, source: Source, work: Work, numbers: range, progress: Progress, workers: int, address: str | None
) -> None:
    """Make all of some parts on a cluster; the folder of the export must lie where all its machines see it.

    An actor has a GPU, or, where the cluster has none, a machine's share of processors.

    Args:
        encoder: what embeds; the cluster gets it once.
        source: of the samples.
        work: the export.
        numbers: of the parts.
        progress: is told.
        workers: threads of an actor that read and decode.
        address: of the cluster; the one that is there, or else one of this machine, unless told.

    Raises:
        MmclError: Ray is not installed, or a shard, a model or a folder cannot be used on its machines.
    """
    try:
        import ray
    except ImportError:
        raise MmclError("engine: ray is not installed: pip install 'mmcl[ray]'") from None
    with _connected(ray, address):
        job = ray.put(Job(source, work.out.absolute(), work.plan, workers))
        device, encoder.model = encoder.device, encoder.model.cpu()  # machines without a GPU take it as well
        model = ray.put(encoder)
        encoder.model = encoder.model.to(device)
        options, count = _shares(ray)
        made: Any = ray.remote(Worker).options(**options, **AGAIN)
        actors = [made.remote(model, job) for _ in range(min(count, len(work.missing(numbers)) or 1))]
        try:
            _hand_out(ray, actors, work, numbers, progress)
        finally:
            for actor in actors:
                ray.kill(actor)


def _hand_out(ray: Any, actors: list[Any], work: Work, numbers: range, progress: Progress) -> None:
    """Give each actor some parts at a time, until all are whole."""
    busy = {actor.make.remote([]): (actor, list[int]()) for actor in actors}  # which is answered when the model is open
    idle: list[Any] = []
    while left := work.missing(numbers):
        size = max(1, min(TOGETHER, len(left) // (SHARES * len(actors))))
        given = {number for _, some in busy.values() for number in some}
        left = [number for number in left if number not in given]
        while left and idle:
            actor, some, left = idle.pop(), left[:size], left[size:]
            busy[actor.make.remote(some)] = actor, some
        progress.look()
        for call in ray.wait(list(busy), timeout=POLL)[0]:
            actor, some = busy.pop(call)
            idle.append(actor)
            if _answer(ray, call) < len(some):
                progress.waiting(len(some))
                time.sleep(POLL)


def _answer(ray: Any, call: Any) -> int:
    """What an actor says, or why it could not."""
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, MmclError) else error from None
    except ray.exceptions.RayActorError as error:
        raise MmclError(
            f"engine: ray: a worker could not start, or died {TIMES} times over the same parts: {error}"
        ) from None


def _shares(ray: Any) -> tuple[dict[str, Any], int]:
    """What each actor gets of the cluster, and how many there are."""
    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        return {"num_gpus": 1, "num_cpus": 1}, gpus
    machines = [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return {"num_cpus": max(int(min(machines, default=1)), 1), "scheduling_strategy": "SPREAD"}, max(len(machines), 1)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """With a cluster: the caller's own connection, where there is one."""
    mine = not ray.is_initialized()
    if mine:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


def _reach(address: str | None) -> None:
    """See that somebody listens at an address, for which Ray itself waits for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        except OSError as error:
            raise MmclError(
                f"engine: ray: no cluster answers at {address} ({error}); start one: ray start --head"
            ) from None
