"""How well an anchor and a candidate agree: one score a file."""
