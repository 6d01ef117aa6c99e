"""What the environment says: read once, where a process begins, and passed on from there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ArgosyError

PREFIX = "ARGOSY_"


class Settings(BaseModel):
    """Each field is `ARGOSY_` and its name in capitals. A fleet file or an option of a command goes before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: Path = Field(description="the weights cache, shared by every fleet of this user")
    state: Path = Field(description="each fleet's own folder: its token, its store, its logs")
    offline: bool = Field(False, description="never download: what is missing is an error")
    log_format: Literal["text", "json"] = "text"
    debug: bool = Field(False, description="show the traceback of an error, besides its sentence")

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """From the environment; what it leaves out or leaves empty has its default, folders below the XDG ones.

        ArgosyError that names the variable when a value is not one. Folders are named here, not made.
        """
        variables = os.environ if environment is None else environment
        home = Path(variables.get("HOME") or Path.home())
        values: dict[str, object] = {
            "cache": _base(variables, "XDG_CACHE_HOME", home / ".cache") / "argosy",
            "state": _base(variables, "XDG_STATE_HOME", home / ".local/state") / "argosy",
        }
        for name in cls.model_fields:
            if value := variables.get(PREFIX + name.upper(), "").strip():
                values[name] = Path(value).expanduser().absolute() if name in ("cache", "state") else value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise ArgosyError(
                f"{PREFIX}{str(first['loc'][0]).upper()} in the environment that reads: {first['msg']}",
                repr(first["input"]),
                f"unset {PREFIX}{str(first['loc'][0]).upper()}",
            ) from None


def _base(variables: Mapping[str, str], name: str, default: Path) -> Path:
    """The specification has relative folders ignored."""
    value = Path(variables.get(name) or default)
    return value if value.is_absolute() else default
