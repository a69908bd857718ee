"""Campaigns: what is wanted of them, the worker that brings it about, and the run from spec to file."""
