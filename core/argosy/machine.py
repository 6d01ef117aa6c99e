"""What a Linux machine's files tell, read below a root that tests and recordings can stand for."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
# Of a display of any vendor, below the root: what `displays` reads. `drm/*/dev` stands for the folder that it is in.
DISPLAYS = (
    *(
        f"sys/bus/pci/devices/*/{name}"
        for name in ("class", "vendor", "device", "uevent", "driver", "drm/renderD*/dev")
    ),
    "dev/dri/renderD*",
)
DIGITS = 20  # of a number that any kernel writes; more of them are garbage, which int() may refuse to read

HOST_PIDS = "pid:[4026531836]"  # the first namespace of process numbers; Linux gives no other this number

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}
# Regions of memory in `drm-resident-vram0: 12 KiB`, as the kernel's drivers call a card's own and the system's.
OWN, SYSTEM = ("vram", "local"), ("gtt", "system")
REGION = re.compile(r"^drm-(resident|memory|total)-(\w+):\s*(\d+) ?(\w*)$", re.MULTILINE)


def text(path: Path) -> str:
    """A file's text without the white space around it; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def number(found: str) -> int:
    """0 for `max`, `-1` and whatever else is no decimal number."""
    return int(found) if found.isdecimal() and found.isascii() and len(found) <= DIGITS else 0


def hexadecimal(found: str) -> int:
    """0 for whatever is no `0x1f02` of at most 64 bits."""
    return int(found, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", found) else 0


def pairs(found: str) -> dict[str, str]:
    """`key value` lines; of a key that comes twice the last."""
    return {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in found.splitlines()}


def field(found: str, *names: str) -> str:
    """The first `name : value` of the first name that is there; empty where none is."""
    for name in names:
        if match := re.search(rf"^{name}\s*:[ \t]*(.*)$", found, re.MULTILINE):
            return match[1].strip()
    return ""


def limits(root: Path, controller: str, *names: str) -> Iterator[str]:
    """What the control groups of this process say in these files, version 2 and version 1, from its own group up."""
    base = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        folder = base / controller if controllers else base
        own = Path(path.lstrip("/"))
        for group in (own, *own.parents):
            yield from (found for name in names if (found := text(folder / group / name)))


def host_pids() -> bool:
    """Whether numbers of processes that a driver tells are those that this process sees: in a container, unless it
    shares the host's, they are not, and one that is the same is another process."""
    try:
        return os.readlink("/proc/self/ns/pid") == HOST_PIDS
    except OSError:
        return False


def family(pid: int, root: Path = Path("/proc")) -> set[int]:
    """A process and all that descend from it; engines run parts of themselves in processes of their own."""
    found, new = {pid}, [pid]
    while new:
        parent = new.pop()
        for listing in (root / str(parent) / "task").glob("*/children"):
            try:
                children = {int(child) for child in listing.read_text().split()} - found
            except (OSError, ValueError):
                continue  # ended meanwhile
            found |= children
            new += children
    return found


def resident(pid: int, root: Path = Path("/proc")) -> int:
    """Bytes of memory that a process holds: files that it maps in full, its own pages by its share of them; 0 for one
    that has ended.

    Libraries and weights are mapped by several replicas at once. Counted in proportion, a replica would weigh less in
    company than alone, and what was measured would foretell nothing: one voice, alone 175 MiB, weighed 160 beside
    four other services. Pages of its own are shared only with children that it forked, and are counted once there.
    Where the kernel does not tell them apart, the resident size.
    """
    try:
        found = (root / str(pid) / "smaps_rollup").read_text()
        kib = {name: int(field(found, name).split()[0]) for name in ("Rss", "Anonymous", "Pss_Anon")}
        return (kib["Rss"] - kib["Anonymous"] + kib["Pss_Anon"]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        pages = int((root / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Display:
    """A PCI function of a display class: a card, an integrated GPU, or an accelerator without any outputs.

    pci: its address, `0000:01:00.0`; folder: where its files are
    vendor, device: its PCI ids; driver: the kernel's that holds it, empty where none does
    renders: its render nodes, `dev/dri/renderD128`, below the root
    """

    pci: str
    vendor: int
    device: int
    folder: Path
    driver: str
    renders: tuple[str, ...]

    @property
    def ids(self) -> str:
        """As lspci and the databases of PCI ids write them."""
        return f"{self.vendor:04x}:{self.device:04x}"

    @property
    def location(self) -> tuple[int, int] | None:
        return location(self.pci)


def location(pci: str) -> tuple[int, int] | None:
    """Of a PCI address the domain, and bus, device and function in one number; None where it is none."""
    if not re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", pci):
        return None
    domain, bus, slot, function = (int(part, 16) for part in re.split("[:.]", pci))
    return domain, bus << 8 | slot << 3 | function


def displays(root: Path, vendor: int) -> list[Display]:
    """A vendor's displays below `root`, by PCI address. A virtual machine's and a container's kernel lists them too,
    those that were not passed into the container included."""
    found = []
    for folder in _entries(root / "sys/bus/pci/devices"):
        if location(folder.name) is None:
            continue
        if hexadecimal(text(folder / "class")) >> 16 != 0x03 or hexadecimal(text(folder / "vendor")) != vendor:
            continue
        renders = (f"dev/dri/{node.name}" for node in _entries(folder / "drm") if node.name.startswith("renderD"))
        device = hexadecimal(text(folder / "device"))
        found.append(
            Display(
                pci=folder.name,
                vendor=vendor,
                device=device,
                folder=folder,
                driver=_driver(folder),
                renders=tuple(renders),
            )
        )
    return found


def closed(root: Path, node: str) -> str:
    """Why a device node cannot be opened by this process: `missing`, `denied`, or empty where it can."""
    path = root / node
    try:
        path.stat()
    except PermissionError:
        return "denied"
    except OSError:
        return "missing"
    return "" if os.access(path, os.R_OK | os.W_OK, effective_ids=True) else "denied"


def group(root: Path, node: str) -> int:
    """The number of the group that owns a device node, which is what a container has to be given; 0 without one."""
    try:
        return (root / node).stat().st_gid
    except OSError:
        return 0


def total(root: Path) -> int:
    """Bytes of the system's memory; 0 where /proc/meminfo does not tell."""
    return number(field(text(root / "proc/meminfo"), "MemTotal").removesuffix("kB").strip()) * 1024


def unified(root: Path, wanted: int = 0) -> int | None:
    """Bytes that a device may take of the memory that it shares with the system: `wanted` (0: as much as there is),
    at most what is left when the host keeps 8 GiB or a tenth, whichever is more; on small machines a quarter. It is
    reckoned from all memory rather than from what is free, for what is free moves with our own replicas.
    None where nothing tells.
    """
    whole = total(root)
    most = max(whole - max(8 * GIB, whole // 10), whole // 4)
    return min(size for size in (wanted, most) if size) if wanted or most else None


def drm_memory(root: Path, pci: str, pids: Collection[int] = (), *, shared: bool = False) -> dict[int, int]:
    """Process -> bytes that it holds on the display at `pci`, as the kernel's DRM drivers tell it for each open file;
    of `pids`, or of every process that may be looked at. One that was looked at and holds nothing has 0.

    shared: the device computes in the system's memory, so what it holds of that counts too; a card's own is what
    counts on a card. What several processes have open in common counts for the first.
    """
    found: dict[int, int] = {}
    seen: set[str] = set()
    for pid in sorted(pids) or sorted(int(entry.name) for entry in _entries(root / "proc") if number(entry.name)):
        folder = root / "proc" / str(pid)
        try:
            files = os.listdir(folder / "fdinfo")
        except OSError:
            continue  # ended, or another user's
        found[pid] = 0
        for file in files:
            if not _may_be_drm(folder / "fd" / file):
                continue
            info = text(folder / "fdinfo" / file)
            client = field(info, "drm-client-id")
            if field(info, "drm-pdev") == pci and client not in seen:
                seen.add(client)
                found[pid] += _regions(info, OWN + SYSTEM if shared else OWN)
    return found


def _may_be_drm(link: Path) -> bool:
    """Whether an open file is a DRM node; most are not, and reading what the kernel knows of each takes long."""
    try:
        return os.readlink(link).startswith("/dev/dri/")
    except OSError:
        return True  # cannot be told without looking


def _regions(info: str, regions: tuple[str, ...]) -> int:
    """Bytes of all regions of these kinds. Drivers tell what is resident, and older ones one figure for all."""
    sizes: dict[str, dict[str, int]] = {}
    for what, region, size, unit in REGION.findall(info):
        if region.rstrip("0123456789") in regions:
            sizes.setdefault(region, {})[what] = number(size) * UNITS.get(unit, 0)
    return sum(next(told[what] for what in ("resident", "memory", "total") if what in told) for told in sizes.values())


def _driver(folder: Path) -> str:
    """By the link to the driver, else by what the kernel told its event daemon."""
    try:
        return Path(os.readlink(folder / "driver")).name
    except OSError:
        return pairs(text(folder / "uevent").replace("=", " ")).get("DRIVER", "")


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; empty where there is none."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def installed(*names: str) -> dict[str, str]:
    """Of these distributions those that this environment has, with their versions; nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def needs(name: str) -> tuple[str, ...]:
    """The names of what a distribution asks for, extras included; empty where it is not installed."""
    try:
        return tuple(re.split(r"[^\w.-]", text)[0].lower() for text in importlib.metadata.requires(name) or ())
    except importlib.metadata.PackageNotFoundError:
        return ()
