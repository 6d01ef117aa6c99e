"""Weights in an object store that speaks S3, through boto3 (the extra `argosy[s3]`).

boto3 reads what it always reads: credentials, region, and AWS_ENDPOINT_URL for stores that are not Amazon's.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import WeightsError
from .sources import Source, inside
from .weights_cache import CHUNK, Cache, size_text
from .weights_origins import Download, Expansion, Report, disk_error, no_network
from .weights_policy import Allow, Skipped, data_bin, kind, refuse

_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class S3Download(Download):
    """One object, in the version that its ETag names."""

    bucket: str = field(default="", kw_only=True)
    object_key: str = field(default="", kw_only=True)
    etag: str = field(default="", kw_only=True)

    def transfer(self, part: Path, report: Report) -> None:
        boto3 = _boto3(self.label)
        errors: Any = importlib.import_module("botocore.exceptions")
        http: Any = importlib.import_module("urllib3.exceptions")
        broken = (errors.BotoCoreError, errors.ClientError, http.HTTPError)
        try:
            client = boto3.client("s3")
            with part.open("ab") as file:
                wanted: dict[str, str] = {"Bucket": self.bucket, "Key": self.object_key, "IfMatch": self.etag}
                while file.tell() < self.size:
                    before = file.tell()
                    report(before)
                    body = client.get_object(**wanted, Range=f"bytes={before}-")["Body"]
                    try:
                        for chunk in body.iter_chunks(CHUNK):
                            file.write(chunk)
                            report(file.tell())
                    except broken:
                        if file.tell() == before:  # while bytes arrive, going on ends
                            raise
        except broken as error:
            kept = part.stat().st_size if part.exists() else 0
            raise WeightsError(
                f"to download {self.label} ({size_text(self.size)})",
                f"{type(error).__name__}: {error}",
                f"again: it goes on from the {size_text(kept)} that are here",
            ) from error
        except OSError as error:
            raise disk_error(error, self.label, self.size) from error


def expand_s3(source: Source, cache: Cache, allow: Allow, *, offline: bool) -> Expansion:
    """The object of that name, or all objects below the prefix but pickles and code. The listing is recorded for
    starting offline, and asked for anew otherwise: a bucket's content is not pinned. Raises WeightsError."""
    record = ("s3", source.name, hashlib.sha256(source.path.encode()).hexdigest()[:16])
    listed = cache.recall(*record) if offline else None
    if offline and listed is None:
        raise no_network(str(source), "a listing of it is")
    if listed is None:
        listed = _list(source)
        cache.remember(listed, *record)
    keys = {one["key"]: one for one in listed}
    kinds = {key: kind(key, keys) for key in keys}
    if source.path in keys:
        if source.path not in allow:
            refuse(str(source), kinds[source.path], [source.path])
        return Expansion({PurePosixPath(source.path).name: _download(source, keys[source.path], keys)}, True)
    left = [key for key in sorted(keys) if kinds[key] in ("pickle", "code") and key not in allow]
    pickles = [key for key in left if kinds[key] == "pickle"]
    if pickles and not any(kinds[key] in ("weights", "pickle") for key in keys.keys() - set(left)):
        refuse(str(source), "pickle", pickles)
    files = {key[len(source.path) + 1 :]: _download(source, keys[key], keys) for key in sorted(keys) if key not in left}
    return Expansion(files, False, tuple(Skipped.because(kinds[key], key, keys[key]["size"]) for key in left))


def _download(source: Source, one: dict[str, Any], keys: dict[str, Any]) -> S3Download:
    label = f"s3://{source.name}/{one['key']}"
    identity = hashlib.sha256(f"{label}@{one['etag']}:{one['size']}".encode()).hexdigest()
    checks = tuple((name, value) for name, value in one["checks"])
    return S3Download(
        f"s3-{identity}",
        one["size"],
        label,
        checks,
        data_bin(one["key"], keys),
        bucket=source.name,
        object_key=one["key"],
        etag=one["etag"],
    )


def _list(source: Source) -> list[dict[str, Any]]:
    """Key, size, ETag and digests of the object, or of those below the prefix, from the store."""
    boto3 = _boto3(str(source))
    errors: Any = importlib.import_module("botocore.exceptions")
    found = []
    try:
        client = boto3.client("s3")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=source.name, Prefix=source.path):
            for one in page.get("Contents", ()):
                key = one["Key"]
                if key == source.path or (key.startswith(f"{source.path}/") and not key.endswith("/") and inside(key)):
                    head = client.head_object(Bucket=source.name, Key=key, ChecksumMode="ENABLED")
                    found.append(
                        {"key": key, "size": head["ContentLength"], "etag": head["ETag"], "checks": _checks(head)}
                    )
    except (errors.BotoCoreError, errors.ClientError) as error:
        raise WeightsError(
            f"a listing of {source}",
            f"{type(error).__name__}: {error}",
            "checking the bucket, the credentials, and AWS_ENDPOINT_URL for another store",
        ) from error
    if not found:
        raise WeightsError(f"weights from {source}", "no object of that name or below it", "another prefix")
    return found


def _checks(head: dict[str, Any]) -> list[tuple[str, str]]:
    """The digests that the store states of a whole object. An ETag is its md5 only where it was sent in one piece and
    the store does not encrypt it; where it states none, the length alone is checked."""
    sha256, etag = head.get("ChecksumSHA256", ""), head["ETag"].strip('"')
    if sha256 and head.get("ChecksumType") != "COMPOSITE" and "-" not in sha256:
        return [("sha256", base64.b64decode(sha256).hex())]
    plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    return [("md5", etag)] if plain and _MD5.fullmatch(etag) else []


def _boto3(label: str) -> Any:
    try:
        return importlib.import_module("boto3")
    except ImportError:
        raise WeightsError(
            f"weights from {label}", "boto3, which reads object stores, is not installed", "pip install 'argosy[s3]'"
        ) from None
