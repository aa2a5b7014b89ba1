"""Training of the built-in expression model."""
