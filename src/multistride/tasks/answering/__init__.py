"""Questions about passages, and choices among answers."""
