"""``python -m mmcl``, for launchers: ``torchrun --nproc-per-node 2 -m mmcl train ...``."""

from mmcl.cli import main

if __name__ == "__main__":
    main()
