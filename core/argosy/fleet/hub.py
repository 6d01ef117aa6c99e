"""Model hub repositories: what they hold, at which commit, and which files of them are taken."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from ..errors import WeightsError
from .sources import Source, inside
from .weights_cache import Cache, size_text
from .weights_http import TIMEOUT, HttpDownload
from .weights_origins import Expansion, no_network
from .weights_policy import Allow, Skipped, data_bin, kind, refuse

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file as the hub lists it: `sha256` where it is stored as a large file, else the id that `git` gives it."""

    name: str
    size: int  # bytes
    sha256: str
    git: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything in one repository at one commit."""

    repo: str
    commit: str
    files: tuple[RepoFile, ...]


def expand_hub(source: Source, cache: Cache, allow: Allow, *, endpoint: str | None, offline: bool) -> Expansion:
    """The files that a hub source takes. All weights in open formats with their configuration and tokenizer where it
    names the repository or a folder; what it names, where it names a file. Raises WeightsError, also for what is
    refused."""
    found = snapshot(source, cache, endpoint=endpoint, offline=offline)
    names = {file.name: file for file in found.files}
    single = source.path in names
    chosen, skipped = _named(names, source, allow) if single else _below(names, source, found, allow)
    files = {name: _origin(found, file, endpoint) for name, file in chosen.items()}
    return Expansion(files, single and len(files) == 1, skipped, found.commit)


def snapshot(source: Source, cache: Cache, *, endpoint: str | None, offline: bool) -> Snapshot:
    """List a repository. A branch or tag is resolved once and its commit recorded, so that a service that starts
    again gets the same weights; a commit's listing never changes and is recorded for good. Raises WeightsError."""
    from huggingface_hub import constants

    revision = source.pin or "main"
    folder = source.name.replace("/", "--")
    host = urlsplit(endpoint or constants.ENDPOINT).netloc
    ref = ("hub", folder, "refs", quote(f"{host}--{revision}", safe="."))
    commit = revision if _COMMIT.fullmatch(revision) else cache.recall(*ref)
    recorded = cache.recall("hub", folder, "trees", commit) if commit else None
    if recorded is not None:
        return Snapshot(source.name, commit, tuple(RepoFile(**file) for file in recorded))
    if offline:
        raise no_network(str(source), f"a listing of {source.name} at {revision} is")
    found = _ask(source, commit or revision, endpoint)
    cache.remember([asdict(file) for file in found.files], "hub", folder, "trees", found.commit)
    if not _COMMIT.fullmatch(revision):
        cache.remember(found.commit, *ref)
    return found


def _named(names: dict[str, RepoFile], source: Source, allow: Allow) -> tuple[dict[str, RepoFile], tuple[Skipped, ...]]:
    if source.path not in allow:
        refuse(str(source), kind(source.path, names), [source.path])
    chosen = [source.path]
    shard = _SHARD.fullmatch(source.path)
    if shard:  # one piece stands for a model that is cut in pieces
        others = {name: _SHARD.fullmatch(name) for name in names}
        chosen = [name for name, other in others.items() if other and other.groups() == shard.groups()]
    return {PurePosixPath(name).name: names[name] for name in sorted(chosen)}, ()


def _below(
    names: dict[str, RepoFile], source: Source, found: Snapshot, allow: Allow
) -> tuple[dict[str, RepoFile], tuple[Skipped, ...]]:
    folder = f"{source.path}/" if source.path else ""
    below = {name[len(folder) :]: file for name, file in sorted(names.items()) if name.startswith(folder)}
    if not below:
        near = ", ".join(list(names)[:6])
        raise WeightsError(
            f"{source.path} in {source.name} at {found.commit[:12]}",
            f"only {near}",
            f"hf://{source.name}@{found.commit}/FILE",
        )
    kinds = {name: kind(file.name, names) for name, file in below.items()}
    files = {
        name: file for name, file in below.items() if kinds[name] in ("weights", "companion") or file.name in allow
    }
    left = {name: file for name, file in below.items() if kinds[name] in ("pickle", "code") and name not in files}
    pickles = [file.name for name, file in left.items() if kinds[name] == "pickle"]
    if pickles and not any(kinds[name] in ("weights", "pickle") for name in files):
        refuse(str(source), "pickle", pickles)
    _refuse_many_gguf(files, source, found.commit)
    return files, tuple(Skipped.because(kinds[name], file.name, file.size) for name, file in left.items())


def _origin(found: Snapshot, file: RepoFile, endpoint: str | None) -> HttpDownload:
    """How one listed file comes here. Its key is its checksum: the same file of two repositories comes once."""
    from huggingface_hub import hf_hub_url

    check = ("sha256", file.sha256) if file.sha256 else ("git", file.git)
    label = f"hf://{found.repo}@{found.commit[:12]}/{file.name}"
    data = data_bin(file.name, {other.name for other in found.files})
    url = hf_hub_url(found.repo, file.name, revision=found.commit, endpoint=endpoint)
    return HttpDownload("-".join(check), file.size, label, (check,), data, url=url, hub=True)


def _refuse_many_gguf(files: dict[str, RepoFile], source: Source, commit: str) -> None:
    """A repository of GGUFs holds one model in many precisions, of which a service needs one."""
    models: dict[str, RepoFile] = {}
    for name, file in files.items():
        if name.endswith(".gguf") and not PurePosixPath(name).name.startswith("mmproj"):
            shard = _SHARD.fullmatch(name)
            models.setdefault(shard["stem"] if shard else name, file)
    if len(models) > 1:
        sizes = ", ".join(f"{file.name} ({size_text(file.size)})" for file in list(models.values())[:8])
        raise WeightsError(
            f"one .gguf from {source}",
            f"{len(models)}: {sizes}",
            f"hf://{source.name}@{commit}/{next(iter(models.values())).name}",
        )


def _ask(source: Source, revision: str, endpoint: str | None) -> Snapshot:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(endpoint=endpoint, library_name="argosy")
    try:
        info = api.model_info(source.name, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise WeightsError(
            f"the repository {source.name}",
            "it is gated and this login has no access",
            f"accepting its terms at {api.endpoint}/{source.name}, then `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the repository {source.name}",
            f"none of that name at {api.endpoint}, or a private one",
            "checking the name; for a private one `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(
            f"{source.name} at {revision}",
            "no such branch, tag or commit",
            f"hf://{source.name}@main, or a commit from its history",
        ) from error
    except HfHubHTTPError as error:
        raise WeightsError(
            f"a listing of {source.name}", f"{api.endpoint} answered {error.response.status_code}", "again later"
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        raise WeightsError(
            f"a listing of {source.name} from {api.endpoint}",
            f"{type(error).__name__}: {error}",
            "checking the network, or HF_ENDPOINT for a mirror",
        ) from error
    files = []
    for sibling in info.siblings or ():
        sha256 = sibling.lfs.sha256 if sibling.lfs else ""
        git = sibling.blob_id or ""
        known = _SHA256.fullmatch(sha256) if sha256 else _COMMIT.fullmatch(git)
        if not inside(sibling.rfilename) or sibling.size is None or not known:
            raise WeightsError(
                f"name, size and checksum of every file of {source.name}",
                f"{sibling.rfilename!r} without, or leading out of its folder",
                "another hub or repository",
            )
        files.append(RepoFile(sibling.rfilename, sibling.size, sha256, git))
    if not info.sha or not _COMMIT.fullmatch(info.sha) or not files:
        raise WeightsError(f"weights in {source.name}", "an empty repository", "another one")
    return Snapshot(source.name, info.sha, tuple(files))
