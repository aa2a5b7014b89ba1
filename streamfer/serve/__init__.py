"""Health, metrics and the dashboard of a running streamfer."""
