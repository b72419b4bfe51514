"""`python -m multistride` is the command `multistride`."""

from multistride.cli import main

main()
