"""The sampler and the surrogate as the orchestrator sees them, and what it learns from the surrogate."""
