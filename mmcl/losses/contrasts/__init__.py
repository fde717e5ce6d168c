"""How a row of scores becomes a loss: one contrast a file."""
