"""Chat with language models, as an Argosy plugin."""
