"""Evaluation: returns over whole episodes, recorded episodes, and errors of the world model."""
