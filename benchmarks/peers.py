"""Environments for the tools that mmcl is measured against: one each, made once, in a folder of the user's cache.

A peer runs in the versions that its own requirements ask for, which are not always ours.

    python benchmarks/peers.py open_clip        # makes it if it is not there, and prints its interpreter
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

import platformdirs

PEERS = {
    "open_clip": [
        "torch==2.14.1",
        "torchvision==0.29.1",
        "open_clip_torch==3.3.0",
        "webdataset==0.2.86",  # the newest that open_clip's training accepts
        "pandas",  # imported by open_clip_train.data
    ],
    "clip_benchmark": [
        "torch==2.14.1",
        "torchvision==0.29.1",
        "open_clip_torch==3.3.0",
        "webdataset==0.2.86",  # see above
        "clip-benchmark==1.6.2",
        "numpy<2.4",  # newer ones make no number of an array of one, which its accuracy asks for
        "requests",  # imported by its imagenetv2, and brought by nothing since huggingface_hub 1
    ],
    "clip_retrieval": [
        "torch==2.14.1",
        "torchvision==0.29.1",
        "clip-retrieval==2.45.0",
        "open_clip_torch==2.32.0",
    ],
}
AFTER = {"clip_retrieval": ["setuptools<70"]}
"""What replaces, without regard to requirements, what others asked for: pkg_resources is imported by clip-retrieval,
and torch asks for a setuptools that has none."""
CACHE = Path(platformdirs.user_cache_dir("mmcl")) / "benchmarks"


def interpreter(peer: str, cache: Path = CACHE) -> Path:
    """Python of a peer's environment, which is made unless it is there.

    Args:
        peer: one of `PEERS`.
        cache: folder of all environments.

    Raises:
        subprocess.CalledProcessError: a package could not be installed; the next call begins anew.
    """
    folder = cache / "peers" / peer
    python, made = folder / "bin" / "python", folder / "made.json"  # the latter is written when everything is there
    wanted = {"python": sys.version_info[:2], "packages": [*PEERS[peer], *AFTER.get(peer, [])]}
    if not made.exists() or json.loads(made.read_text()) != json.loads(json.dumps(wanted)):
        print(f"making an environment for {peer} in {folder}", file=sys.stderr)
        made.unlink(missing_ok=True)
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
        for packages in (PEERS[peer], ["--no-deps", *AFTER[peer]] if peer in AFTER else []):
            if packages:
                command = [python, "-m", "pip", "install", "--quiet", *packages]
                subprocess.run(command, check=True, stdout=sys.stderr)
        made.write_text(json.dumps(wanted))
    return python


if __name__ == "__main__":
    print(interpreter(sys.argv[1]))
