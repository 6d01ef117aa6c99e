"""`argosy down`, and which fleet a command means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ClusterError, FleetError
from ..settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from ..serve.home import Home


def down(fleet: str, console: Console, *, address: str = "") -> int:
    """Stop the fleet of that name, or the only one that runs. Nothing running is no error.

    With `address` the fleet is taken off that cluster, and Ray runs on.
    """
    from ..serve import client
    from ..serve import cluster as clusters
    from . import screen

    if address:
        with (
            screen.doing(console, f"taking the fleet off {address}"),
            client.joined(address, client.joining(os.environ)),
        ):
            name = client.take_off(fleet)
        said = f"took the fleet {name} off {address}; Ray runs on" if name else f"no fleet runs on {address}"
        console.print(said, highlight=False)
        return 0
    home = which(fleet)
    if home is None:
        console.print(f"no fleet {fleet} runs here" if fleet else "no fleet runs here", highlight=False)
        return 0
    cluster = clusters.running(home)
    if cluster is None:
        console.print(f"the Ray head of {home.fleet} is dead: taking away what it left", highlight=False)
    else:
        with screen.doing(console, f"stopping {home.fleet}"):
            try:
                with client.joined(cluster.address, cluster.environment):
                    control = client.find()
                    if control is not None:
                        client.ask(control.down.remote(), 60)
            except ClusterError as error:
                console.print(f"control did not answer ({error}); ending its processes", highlight=False)
    clusters.stop(home)
    console.print(f"stopped {home.fleet}", highlight=False)
    return 0


def which(fleet: str) -> Home | None:
    """The home of the named fleet, or of the only one that runs here; None when none does."""
    from ..serve import cluster as clusters
    from ..serve.home import Home

    state = Settings.read().state
    if fleet:
        home = next((home for home in Home.all(state) if home.fleet == fleet), None)
        return home if home and home.cluster() else None
    running = [home for home in Home.all(state) if clusters.running(home)]
    if len(running) > 1:
        names = ", ".join(home.fleet for home in running)
        raise FleetError("one fleet", f"{len(running)} run here: {names}", "--fleet NAME")
    return running[0] if running else next((home for home in Home.all(state) if home.cluster()), None)


def kept(fleet: str) -> Home | None:
    """As `which`, and where none runs the one that ran here: its logs are still there."""
    from ..serve.home import Home

    if found := which(fleet):
        return found
    known = [home for home in Home.all(Settings.read().state) if fleet in ("", home.fleet)]
    if len(known) > 1:
        names = ", ".join(home.fleet for home in known)
        raise FleetError("one fleet", f"{len(known)} ran here: {names}", "--fleet NAME")
    return known[0] if known else None
