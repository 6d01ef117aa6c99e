"""`python -m argosy` is the `argosy` command."""

from .cli import main

main()
