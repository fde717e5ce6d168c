"""Losses of a row over all its views at once; one file each."""
