"""Suites: families of environments that other packages make."""
