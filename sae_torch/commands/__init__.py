"""The commands of the command line: one typed dataclass each, its arguments made from the fields."""
