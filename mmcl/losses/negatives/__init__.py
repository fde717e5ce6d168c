"""Who stands beside a row's positive; one file each."""
