"""What the paper printed, and what arithmetic on it proves (notebooks 04 to 07)."""
