"""mmcl tasks."""


def tasks() -> None:
    """List the tasks that ship with mmcl."""
    from mmcl import bundled

    folder = bundled.shelf("eval") / "tasks"
    for name in bundled.names(folder, ".yaml"):
        print(f"{name:<32}{bundled.first_line(folder / f'{name}.yaml')}")
