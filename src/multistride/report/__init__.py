"""Reports made from result files: tables, a figure, a page. A model is never loaded here."""
