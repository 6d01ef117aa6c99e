"""Sentence embeddings, as an Argosy plugin."""
