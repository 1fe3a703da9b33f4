"""Heads: read prediction latents at named positions, return outputs that carry their loss."""
