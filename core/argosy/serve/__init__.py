"""Ray Serve around the runtime: the only room that imports ray."""
