"""What else shapes the space, beside contrasts: one regularizer a file."""
