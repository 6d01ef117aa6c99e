"""Transcription with Whisper, as an Argosy plugin."""
