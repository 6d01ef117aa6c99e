"""What control does in Ray: see nodes, prepare a fleet, run applications."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import ArgosyError
from ..plan.place import Node
from . import prepare
from .application import application
from .gateway import application_at_root
from .known import Known
from .names import GATEWAY
from .node import NODE_LABEL, resource
from .prepare import Prepared, Ready
from .terms import Settings

ID_LABEL = "ray.io/node-id"


async def see_nodes(py_modules: tuple[str, ...], ours: Mapping[str, Sequence[int]]) -> tuple[Node, ...]:
    """Every living node's own report, in the order of their names. `ours`: Ray's id of a node -> the processes of the
    fleet's replicas there."""
    tasks = []
    for node in _alive():
        identity = node["NodeID"]
        name = node.get("Labels", {}).get(NODE_LABEL) or f"node-{identity[:8]}"
        tasks.append(_on(identity, py_modules, prepare.see).remote(name, identity, list(ours.get(identity, ()))))
    return tuple(sorted([await task for task in tasks], key=lambda node: node.name))


async def prepared(
    text: str, path: str, nodes: Sequence[Node], settings: Settings, py_modules: tuple[str, ...], known: Known
) -> Prepared:
    """Run `prepare` beside control, with the fleet's own plugins at hand. Raises what it raises."""
    task = _on(ray.get_runtime_context().get_node_id(), py_modules, _guarded)
    result = await task.remote(text, path, list(nodes), settings.cache, settings.logs, list(py_modules), known)
    if isinstance(result, ArgosyError):
        raise result
    return result  # type: ignore[no-any-return]


def _guarded(
    text: str, path: str, nodes: list[Node], cache: str, logs: str, py_modules: list[str], known: Known
) -> Prepared | ArgosyError:
    """An error comes back as a value: raised in a task, Ray would wrap it in its own words."""
    try:
        return prepare.prepare(text, path, nodes, cache=cache, logs=logs, py_modules=py_modules, known=known)
    except ArgosyError as error:
        return error


def _on(identity: str, py_modules: tuple[str, ...], function: Any) -> Any:
    environment = {"py_modules": list(py_modules)} if py_modules else {}
    strategy = NodeAffinitySchedulingStrategy(identity, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": strategy, "max_retries": 3}
    if environment:
        options["runtime_env"] = environment
    return ray.remote(function).options(**options)


def start(settings: Settings) -> None:
    """Ray Serve with its ingress, and the gateway at `/`. Nothing happens to what already runs."""
    if GATEWAY in _applications():
        return
    serve.start(
        proxy_location=ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=settings.host, port=settings.port),
    )
    gateway = serve.RunTarget(target=application_at_root(settings), name=GATEWAY, route_prefix="/")
    serve.run_many([gateway], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def node_ids() -> list[str]:
    """Ray's ids of the nodes that live."""
    return [node["NodeID"] for node in _alive()]


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _applications() -> Collection[str]:
    try:
        return serve.status().applications
    except RayServeException:  # Ray Serve has not been started here
        return ()


def lease(share: float) -> float:
    """A share in Ray's own grain of a ten-thousandth, rounded down: six sixths must not come to more than one."""
    return max(math.floor(share * 10_000 + 1e-6), 1) / 10_000


def run(services: Sequence[Ready]) -> None:
    """Deploy services side by side, each as its own application; returns when Ray Serve has taken them."""
    capacities = {node["NodeID"]: node["Resources"] for node in _alive()}
    labels = {node["NodeID"]: node.get("Labels", {}) for node in _alive()}
    targets = []
    for ready in services:
        assignment, node = ready.assignment, ready.node
        wanted = resource(assignment.device)
        # A cluster that was not started by `argosy node` has neither our resources nor our labels: then the plan alone
        # counts shares, and the node is chosen by Ray's own id.
        counted = wanted in capacities.get(node.id, {})
        named = NODE_LABEL in labels.get(node.id, {})
        target = application(
            assignment,
            digest=ready.digest,
            replicas=ready.replicas,
            selector={NODE_LABEL: node.name} if named else {ID_LABEL: node.id},
            resources={wanted: lease(assignment.share)} if counted else {},
            live=ready.live,
            py_modules=ready.py_modules,
        )
        targets.append(serve.RunTarget(target=target, name=assignment.service, route_prefix=f"/{assignment.service}"))
    if targets:
        serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
