"""The stages of the oblivious-transfer protocol that run after the quantum phase."""
