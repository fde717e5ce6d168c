"""What is done with embeddings before a term sees them; one file each."""
