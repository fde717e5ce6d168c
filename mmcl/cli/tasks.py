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
        for name in names:
            print(f"{name:<40}{bundled.first_line(folder / f'{name}.yaml')}")
