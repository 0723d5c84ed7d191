"""How good: recipes and what each of their choices is worth."""
