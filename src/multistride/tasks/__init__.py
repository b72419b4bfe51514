"""Tasks over records: one small interface (`task`), one file a task, their names (`names`)."""
