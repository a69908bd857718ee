"""The library that every service and every user of the Caligo Exploration Suite imports."""

__version__ = "0.2.0"
