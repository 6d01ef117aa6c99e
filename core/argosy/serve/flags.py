"""Every switch of Ray and of its HAProxy ingress that Argosy sets, in one place, with the reason beside it.

They must stand in the environment of every process of the cluster before Ray is imported there.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Request headers that Ray Serve obeys, whoever sends them.
LIFTING = ("x-request-timeout-seconds", "x-request-disconnect-disabled")

# Ray raises where this stands without its sibling HIP_VISIBLE_DEVICES; the backend sets what a replica needs.
STOPPING = ("ROCR_VISIBLE_DEVICES",)

# With this switch, meant for laptops of other makers, Ray takes 127.0.0.1 for the node's address and its servers listen
# there alone; otherwise GCS, raylet, agents and every worker listen on all interfaces.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class Ports:
    """Ports that Ray would fix at a number of its own; each fleet gets free ones."""

    gcs: int
    dashboard: int
    agent: int
    agent_grpc: int
    metrics: int
    runtime_env: int
    client: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback: int
    fallback_grpc: int
    autoscaler_metrics: int
    dashboard_metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on now, found by binding them all at once."""
        names = list(cls.__dataclass_fields__)
        sockets = [socket.socket() for _ in names]
        try:
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            return cls(**{name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)})
        finally:
            for one in sockets:
                one.close()


def ray(token: Path, ports: Ports) -> dict[str, str]:
    """What every Ray process of a fleet of ours gets, on a cluster of one machine."""
    return {
        **common(),
        **LOOPBACK,
        # Ray turns authentication on by itself for some ways of starting and not for others; say it everywhere.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Fixed at 44217 and 44227 by Ray: a second fleet on the machine would collide.
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
    }


def common() -> dict[str, str]:
    """What every Ray process of every node gets, whoever starts it."""
    return {
        # We alone set vendors' masks: Ray would pick one vendor per node and set that one's variable.
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        "RAY_EXPERIMENTAL_NOSET_HIP_VISIBLE_DEVICES": "1",
        "RAY_EXPERIMENTAL_NOSET_ZE_AFFINITY_MASK": "1",
        # No call home, no line about it.
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs workers at niceness 15; a replica that waits for whoever calls it on the same machine gains nobody.
        "RAY_worker_niceness": "0",
        # One line per message: Ray would fold what several replicas say into one.
        "RAY_DEDUP_LOGS": "0",
        # A worker that holds nothing waits for nobody: fewer idle processes beside the models.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        # Custom resource amounts are a fraction of a device; Ray's own warning about fewer cores does not apply.
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    }


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What Ray's processes get of our environment: nobody else's Ray settings, for two clusters of one machine must
    not share any, and no mask with which Ray, where it finds that vendor's library, starts no worker."""
    return {name: value for name, value in environ.items() if not name.startswith("RAY_") and name not in STOPPING}


def serve(temp: Path, ports: Ports, *, haproxy: bool) -> dict[str, str]:
    """Switches of Ray Serve. `haproxy` off goes back to Ray's Python proxy, at a tenth of the requests per second."""
    common = {
        # A dead proxy is found after 3 missed checks: 3 s instead of 30 s.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
        # Replicas log through Argosy; Serve's own access line per request costs a tenth of the no-op.
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Serve hands its figures to Ray ten times a second in every process, though Ray exports them every 10 s, and
        # its controller looks as often at what nobody changed: a fifth of a core of an idle fleet.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Answers run on the actor's own event loop: a thread of its own costs a hand-over a request.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
    if not haproxy:
        return common
    folder = temp / "h"
    return {
        **common,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Ray's defaults stand in one folder of /tmp for every cluster of a machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),  # `haproxy_script` is what stands there
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # Fixed at 9101 and 8404 by Ray; taken ports stop the ingress for 60 s without a word.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        # Two threads carry more than any model here; four only cost memory.
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        # Ray keeps a leaving replica for 30 s; after 1 s HAProxy has long stopped sending to it, and running
        # streams still end on it (measured: 0 of 320 requests failed).
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Serve's Python proxy stays behind HAProxy as the way to applications that have no replica.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        # A replica that was killed is noticed by its first refused connection.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    }


def haproxy_script(binary: str) -> str:
    """What Ray starts as HAProxy: HAProxy itself, after three things that Ray's configuration offers no setting for.

    - No splice(), which Ray's configuration asks for: with it HAProxy 2.8 misses that a client left whose body came in
      a packet of its own, and spins until the answer is there (measured: 22 of 30 clients; without it none).
    - Metrics and statistics on loopback instead of every interface.
    - Headers with which a client could lift Ray Serve's timeout, or stop its own cancellation, are taken off before
      Ray's server reads them; a replica's door would be too late.
    """
    lines = [rf"    http-request del-header {name}" for name in LIFTING]
    after = r"\n".join([r"\1", *lines])
    edits = [
        r"s/^\( *bind \)\*\{0,1\}:/\1127.0.0.1:/",
        rf"/^frontend http_frontend/,/^ *bind /s/^\( *bind .*\)$/{after}/",
    ]
    script = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    return (
        "#!/bin/sh\n"
        'for word; do [ "$before" = -f ] && config="$word"; before="$word"; done\n'
        f'[ -f "$config" ] && ! grep -q {LIFTING[0]} "$config" && sed -i {script} "$config"\n'
        f'exec {shlex.quote(binary)} -dS "$@"\n'
    )


def haproxy_in(environment: Mapping[str, str]) -> bool:
    """Whether a cluster's environment has the HAProxy ingress on."""
    return environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
