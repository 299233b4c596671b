"""The study at about ten million tokens of five texts: the same rules, more tokens, and the rivals of 2026."""
