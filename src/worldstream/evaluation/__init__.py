"""Evaluation: returns over whole episodes, world-model errors, and the report."""
