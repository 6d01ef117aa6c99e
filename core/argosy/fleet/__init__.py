"""The fleet file: its schema, and where weights come from."""
