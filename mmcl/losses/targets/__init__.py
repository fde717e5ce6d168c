"""Who is positive, and how much; one file each."""
