"""Gaussian process, guardrail and acquisition of the Caligo Exploration Suite."""
