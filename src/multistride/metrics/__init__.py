"""Every number the project reports, each computed in one place, from texts, tokens and labels.

    quality.py      BLEU, chrF, error rates, length, against one reference a line
    overlap.py      ROUGE, BLEU against several references, concepts
    answers.py      exact match and F1 of short answers (SQuAD)
    repetition.py   repetition, variety, self-BLEU
    confusion.py    accuracy, F1 and confusion of classes
    calibration.py  calibration error, temperature of a classifier

Nothing here knows a model. Shares and rates are 0-1, BLEU and chrF 0-100.
"""
