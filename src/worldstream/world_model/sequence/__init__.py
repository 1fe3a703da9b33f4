"""Sequence models with parallel observation prediction."""
