"""Training: collection, experience, the phases and their updates, and the loop that joins them."""
