"""Runs: everything that a run keeps in its folder, and how it is started, stopped and continued."""
