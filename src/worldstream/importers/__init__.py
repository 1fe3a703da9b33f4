"""Importers: agents that other programs trained, as runs of ours."""
