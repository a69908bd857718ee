"""What is made from the sources and committed: run by make, compared by tests."""
