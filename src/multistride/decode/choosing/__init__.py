"""How many tokens the next step proposes, and how many of them are kept."""
