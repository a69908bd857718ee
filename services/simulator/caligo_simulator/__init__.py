"""Protocol simulations of the Caligo Exploration Suite."""
