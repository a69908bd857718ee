"""Makes, searches and measures the codes that the simulator reconciles with; none of it runs in the simulator."""
