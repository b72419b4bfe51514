"""Which class a document belongs to, whatever its length."""
