"""What the fleet costs: each service through the endpoint against its bare engine, side by side in one run.

`python -m benchmarks --help` says how; docs/benchmarks.md says what is measured and what is not.
"""
