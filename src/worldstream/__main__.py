"""``python -m worldstream``: the same as the ``worldstream`` command."""

from worldstream.cli import main

main()
