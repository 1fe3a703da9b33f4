"""The published agent once more, slow and plain, to compare ours with at any size.

``checkpoint`` draws weights and inputs of an agent, under the published names; ``agent`` and ``sequence`` compute from
them, in double precision, what the golden files hold: from the equations, with every mask and every score written out,
and without a line of ours. Where the golden files are, it agrees with them (``tests/parity/test_reference.py``).
"""
