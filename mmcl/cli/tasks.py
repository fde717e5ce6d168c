"""mmcl tasks."""


def tasks() -> None:
    """List the tasks and suites that ship with mmcl."""
    from mmcl import bundled

    shelf = bundled.shelf("eval")
    for kind in ("tasks", "suites"):
        folder = shelf / kind
        names = bundled.names(folder, ".yaml") if folder.is_dir() else []
        if kind == "suites" and names:
            print("\nsuites, which are lists of tasks:")
        width = max(map(len, names), default=0) + 2
        for name in names:
            print(f"{name:<{width}}{bundled.first_line(folder / f'{name}.yaml')}")
