"""Models that other programs trained, as models of this one."""
