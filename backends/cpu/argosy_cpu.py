"""The host's processor as a device of Argosy."""
