"""Campaigns of the Caligo Exploration Suite."""
