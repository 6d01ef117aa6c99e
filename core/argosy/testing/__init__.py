"""Mock backends, mock fleets, contract tests: for us and for plugin authors."""
