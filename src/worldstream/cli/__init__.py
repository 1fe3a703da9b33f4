"""The command line: every command is a function of the Python interface."""

from worldstream.cli.commands import main, parse

__all__ = ["main", "parse"]
