"""One GPU, shared by two replicas without Ray: detection, caps, watchdog, proof, and speed beside bare torch.

`scripts/gpu-bench --help` says how; it needs a machine with torch, transformers and the vendor's own library, and
installs nothing. The modules here are for that machine's interpreter, and the standard library is all they assume.
"""
