"""Dialects over the tasks: one module each, free of Ray and of every engine.

A dialect turns what a protocol's client sends into a task's request, and a task's response or deltas into what that
client expects. `service.app` makes the ASGI application of one service; `root` holds what the gateway needs to answer
the same routes for all services at once.
"""
