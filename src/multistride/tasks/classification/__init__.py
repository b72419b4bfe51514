"""Classification of documents of any length."""
