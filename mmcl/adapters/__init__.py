"""Models of mmcl as what other programs take for a model: a program a file, imported where it is asked for."""
