"""Names by which the parts of a fleet find each other in Ray."""

NAMESPACE = "argosy"
CONTROL = "argosy-control"
GATEWAY = "argosy-gateway"
GUARD = "argosy-guard"  # and the node's id in Ray
