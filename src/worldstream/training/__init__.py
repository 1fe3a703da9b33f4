"""Training: learners, cadences, collection, metrics, checkpoints and the loop that joins them."""
