"""Tasks over records: one small interface (`record`), one subpackage a task, their names (`names`).

    record.py          records, examples, answers; what a task is, and how one is opened
    streams.py         documents in, answers out, line by line
    answering/         questions about passages, and choices
    classification/    classes of documents
    generation/        texts from sources
    translation/       translations
    sentence_windows   several lines of a document translated together

No package below imports this one.
"""
