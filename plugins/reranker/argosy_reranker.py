"""Reranking of passages, as an Argosy plugin."""
