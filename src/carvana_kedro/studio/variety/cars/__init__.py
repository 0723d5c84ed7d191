"""Cars of many kinds: bodies, what is attached to them, wheels and markings."""
