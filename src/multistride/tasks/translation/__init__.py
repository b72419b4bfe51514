"""Translation as a task over records."""
