"""Other programs that run our weights, and the export to them."""
