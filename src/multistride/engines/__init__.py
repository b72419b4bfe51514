"""Other programs that run our weights."""
