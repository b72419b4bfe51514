"""Quality and speed of a checkpoint by group size."""
