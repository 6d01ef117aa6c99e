"""Dialects over tasks: no ray, no engine."""
