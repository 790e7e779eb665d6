"""Training sets, networks and their scores (notebooks 06 and 07)."""
