"""Models of mmcl as what other programs take for a model. One program a file; each is imported where it is asked for."""
