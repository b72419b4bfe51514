"""The processes of a benchmark: each holds one contender, decodes what it is told to, and times
itself.
"""
