"""Layouts in which data sets are distributed."""
