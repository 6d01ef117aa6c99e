"""`scripts/gpu-bench`: share one GPU between two replicas without Ray, and see that every promise holds there."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import carried, steps
from .report import Report

NO_GPU, MISSING = 4, 3  # exit codes; 1: a bar was not met


def main() -> int:
    options = parsed()
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    environ = carried.environment(out / "work")
    modules, distributions = carried.missing(environ)
    if modules:
        more = f" (not installed: {', '.join(distributions)})" if distributions else ""
        print(
            f"gpu-bench: wanted what a replica imports; found no {', '.join(modules)}{more}; try: carry wheels along\n"
            "  pip download --only-binary=:all: --dest wheels NAME…    (where packages can be had)\n"
            "  pip install --no-index --no-deps --target carried wheels/*.whl && PYTHONPATH=carried scripts/gpu-bench",
            file=sys.stderr,
        )
        return MISSING
    torch = steps.child(["look"], environ)
    if options.device == "cuda" and not torch["devices"]:
        built = f"built for CUDA {torch['built_for']}" if torch["built_for"] else "built without CUDA"
        print(
            f"gpu-bench: wanted an NVIDIA GPU; found torch {torch['torch']} ({built}), which sees none on "
            f"{platform.node()}; try: a machine that has one, or --device cpu for a dry run",
            file=sys.stderr,
        )
        return NO_GPU
    report = Report(
        device=options.device,
        machine={"python": platform.python_version(), "kernel": platform.release(), "commit": commit(), **torch},
    )
    size = options.size or ("large" if options.device == "cuda" else "tiny")
    texts = {"batch": options.batch, "length": options.length, "size": size}
    bench = steps.Bench(options.device, out, environ, report, seconds=options.seconds, rounds=options.rounds, **texts)
    began = time.monotonic()
    try:
        bench.run()
    finally:
        report.seconds = time.monotonic() - began
        (out / "report.json").write_text(json.dumps(report.plain(), indent=1) + "\n")
        (out / "report.md").write_text(report.page())
    print(report.page())
    return 0 if report.met else 1


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu-bench", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run of what needs no GPU")
    parser.add_argument(
        "--out", default="benchmarks/out/gpu", metavar="FOLDER", help="for the report, the logs and the tree"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of speed")
    parser.add_argument("--rounds", type=int, default=3, help="of bare torch and the service in turn")
    parser.add_argument("--batch", type=int, default=64, help="texts of one request, and of one batch of bare torch")
    parser.add_argument("--length", type=int, default=120, help="words of one text")
    parser.add_argument("--size", choices=("large", "tiny"), help="of the encoder; large on a GPU, tiny on a processor")
    return parser.parse_args()


def commit() -> str:
    done: Any = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=carried.ROOT, capture_output=True, text=True, check=False
    )
    return str(done.stdout).strip() or "not a checkout"


if __name__ == "__main__":
    raise SystemExit(main())
