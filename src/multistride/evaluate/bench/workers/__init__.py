"""The processes of a benchmark: each holds one contender, decodes and times itself."""
