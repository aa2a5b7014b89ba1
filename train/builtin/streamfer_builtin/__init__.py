"""How the built-in weights were made: the expression model, the face detector, and the rendered faces."""
