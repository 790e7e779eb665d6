"""Teaching a model entities that it has not met (notebooks 08 and 09)."""
