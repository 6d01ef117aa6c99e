"""Downloads over HTTP, with huggingface_hub's own transfer: its session, retries, ranges and token.

`hf_hub_download` is not used: it writes to a file with a random name and removes it when the download breaks (2.4,
`_download_to_tmp_and_move`), so a process that is started again begins again. `http_get`, on which it stands, goes
on from a given size; it waits and tries again by itself on timeouts and cut connections.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .sources import Source
from .weights_cache import Cache, size_text
from .weights_origins import Download, Expansion, Report, disk_error, no_network
from .weights_policy import Allow, data_bin, kind, refuse

TIMEOUT = 30.0  # seconds to the answer of a small request


@dataclass(frozen=True)
class HttpDownload(Download):
    """One file by URL. `hub` adds the hub's token, if the user is logged in; a redirect elsewhere loses it again."""

    url: str = field(default="", kw_only=True)
    hub: bool = field(default=False, kw_only=True)

    def transfer(self, part: Path, report: Report) -> None:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__
        from huggingface_hub.utils.tqdm import silent_tqdm

        headers = build_hf_headers(library_name="argosy") if self.hub else {"user-agent": "argosy"}
        headers["Accept-Encoding"] = "identity"  # ranges count the file's bytes, not a compressed stream's
        quiet: Any = silent_tqdm  # progress is what `report` hears
        while True:
            before = part.stat().st_size if part.exists() else 0
            report(before)
            try:
                with _Counted(part, report) as file:
                    http_get(
                        self.url,
                        file,
                        resume_size=before,
                        headers=headers,
                        expected_size=self.size,
                        displayed_filename=self.label,
                        tqdm_class=quiet,
                    )
                return
            except HfHubHTTPError as error:
                raise self._broken(part, f"the server answered {error.response.status_code}") from error
            except httpx2.TransportError as error:
                # A reset connection is not among those that http_get tries again. While bytes arrive, this ends.
                if isinstance(error, httpx2.ReadError) and part.stat().st_size > before:
                    continue
                raise self._broken(part, f"{type(error).__name__}: {error}") from error
            except ValueError as error:  # http_get's bound on what plain HTTP serves, 50 GB
                raise WeightsError(
                    f"{self.label}, {size_text(self.size)}",
                    str(error),
                    "fetching it with `hf download`, then naming the folder as file://",
                ) from error
            except OSError as error:
                if error.errno is None:  # http_get's own check of the length
                    raise self._broken(part, f"another length than the {self.size} bytes it announced") from error
                raise disk_error(error, self.label, self.size) from error

    def _broken(self, part: Path, found: str) -> WeightsError:
        kept = part.stat().st_size
        again = f"again: it goes on from the {size_text(kept)} that are here" if kept else "again, or another source"
        return WeightsError(f"to download {self.label} ({size_text(self.size)})", found, again)


def expand_http(
    source: Source, cache: Cache, allow: Allow, *, target: str, siblings: Collection[str], offline: bool
) -> Expansion:
    """The one file that an http(s):// source names, to be called `target`, beside `siblings`. Its size is asked for
    unless it is here already. Raises WeightsError."""
    if target not in allow:
        refuse(str(source), kind(target, siblings), [target])
    key = f"sha256-{source.pin}"
    blob = cache.blob(key)
    here = blob.is_file() and (offline or cache.known_sha256(blob) is not None)  # a damaged one may have any size
    size = blob.stat().st_size if here else _ask_size(source, offline)
    data = data_bin(target, siblings)
    download = HttpDownload(key, size, source.name, (("sha256", source.pin),), data, url=source.name)
    return Expansion({source.path: download}, True)


def _ask_size(source: Source, offline: bool) -> int:
    if offline:
        raise no_network(source.name, "it is")
    import httpx2
    from huggingface_hub import get_session

    headers = {"Accept-Encoding": "identity", "user-agent": "argosy"}
    try:
        answer = get_session().head(source.name, headers=headers, timeout=TIMEOUT, follow_redirects=True)
        if answer.status_code in (403, 405, 501):  # signed addresses and simple servers know GET alone
            with get_session().stream("GET", source.name, headers=headers, timeout=TIMEOUT) as answer:
                length = answer.headers.get("content-length")
        else:
            length = answer.headers.get("content-length")
    except httpx2.TransportError as error:
        raise WeightsError(
            f"to reach {source.name}", f"{type(error).__name__}: {error}", "checking the address and the network"
        ) from error
    if answer.status_code != 200:
        raise WeightsError(
            f"the file {source.name}", f"the server answered {answer.status_code}", "checking the address"
        )
    if length is None:
        raise WeightsError(
            f"the size of {source.name}, to check the disk before it comes",
            "an answer without Content-Length",
            "a server that states it, or file://",
        )
    return int(length)


class _Counted(io.FileIO):
    """A file open at its end, that says after each write how long it is."""

    def __init__(self, path: Path, report: Report) -> None:
        super().__init__(path, "a+")
        self.seek(0, io.SEEK_END)
        self._report = report

    def write(self, data: Any, /) -> int:
        """All of `data`: an unbuffered file may write less, and the caller does not look."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        self._report(self.tell())
        return len(data)
