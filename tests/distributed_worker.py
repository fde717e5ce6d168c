"""Several real processes for a test: spawned, over gloo, meeting at a file."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(function: Callable[..., Any], processes: int, folder: Path, *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns in each of several processes, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_process, args=(processes, folder, function, arguments), nprocs=processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def _process(rank: int, processes: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), ACCELERATE_USE_CPU="true")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    try:
        torch.save(function(*arguments), folder / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
