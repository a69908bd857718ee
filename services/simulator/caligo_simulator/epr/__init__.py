"""Sources of quantum data."""
