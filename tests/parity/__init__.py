"""Parity: our modules compute the numbers of the published agent (``tests/golden/README.md``).

``published.recompute`` computes them with ours, and ``reference`` once more without a line of ours.
"""
