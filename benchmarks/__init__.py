"""How fast: each module prints tables, or JSON."""
