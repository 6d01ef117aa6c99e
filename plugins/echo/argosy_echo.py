"""The smallest plugin of Argosy: it answers what it was asked."""
