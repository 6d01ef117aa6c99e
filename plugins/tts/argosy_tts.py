"""Speech with Piper voices, as an Argosy plugin."""
