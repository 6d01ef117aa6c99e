"""A replica without Ray: mask, load, canary, prove, batch, answer."""
