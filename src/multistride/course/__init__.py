"""The course: thirteen chapters whose every figure and table is made by a run."""
