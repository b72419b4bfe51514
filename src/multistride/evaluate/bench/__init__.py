"""Speed against other programs, measured in turns."""
