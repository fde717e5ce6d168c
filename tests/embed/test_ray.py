"""Ray: the bytes of this process, on a cluster of two machines, one of whose workers is killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from mmcl.errors import MmclError
from tests.embed.export import embed, tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one processor each, as far as Ray knows."""
    ray: Any = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_DISABLE_METRICS_COLLECTION": "1"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def workers() -> list[psutil.Process]:
    """Processes of actors that make parts."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline() and one.cmdline()[0].startswith("ray::Worker"):
                found.append(one)
        except psutil.Error:
            continue
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_bytes_are_those_of_this_process(
    cluster: Any, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert embed(folder, tmp_path / "out", engine="ray", address=cluster.address) is not None
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_changes_nothing(
    cluster: Any, folder: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed, used = tmp_path / "out", list[int](), set[int]()

    def kill() -> None:
        while not (out / "manifest.json").exists():
            used.update(one.pid for one in workers())
            if not killed and list((out / ".work").glob("part_*.lock")):
                killed.append(next(iter(used)))
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.005)

    killer = Thread(target=kill)
    killer.start()
    assert embed(folder, out, part_size=4, engine="ray", address=cluster.address) is not None
    killer.join()
    assert killed
    assert len(used) > 2, "nobody took its place"
    embed(folder, tmp_path / "one", part_size=4)
    assert tree(out) == tree(tmp_path / "one")


def test_a_cluster_that_is_not_there_is_told_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MmclError, match="no cluster answers at 127.0.0.1:1"):
        embed(folder, tmp_path / "out", engine="ray", address="127.0.0.1:1")
