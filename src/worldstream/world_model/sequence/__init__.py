"""Sequence models: parallel observation prediction or block teacher forcing, with retention or attention."""
