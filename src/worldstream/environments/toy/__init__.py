"""Toys: small environments of our own with known optimal returns, for tests and benchmarks."""
