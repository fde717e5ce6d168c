"""Tests of mmcl.tasks."""
