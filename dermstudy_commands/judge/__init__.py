"""`dermstudy judge`: real images as features, a folder beside them, the comparison of a classifier, one page."""
