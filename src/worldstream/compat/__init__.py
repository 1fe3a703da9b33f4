"""What others wrote: weights of the published agent, read into our modules and compared with its numbers."""
