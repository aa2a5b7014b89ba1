"""Recipes, data and evaluation behind the weights: imports streamfer, never the reverse."""
