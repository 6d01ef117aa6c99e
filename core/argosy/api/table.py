"""From a method and a path to a route: exact paths by one look-up, paths with braces by one pattern each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import MethodNotAllowed, NotFound
from .dialect import Dialect, Route
from .wire import Scope

Methods = dict[str, tuple[Dialect, Route]]


def below(scope: Scope) -> str:
    """The path below the prefix. Starlette and uvicorn keep `root_path` in `path`, older servers take it out."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return path or "/"


@dataclass(frozen=True, slots=True)
class Table:
    exact: dict[str, Methods] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], Methods]] = field(default_factory=list)

    def add(self, dialect: Dialect, routes: Iterable[Route]) -> None:
        for route in routes:
            if "{" not in route.path:
                methods = self.exact.setdefault(route.path, {})
            else:
                parts = re.split(r"\{(\w+)\}", route.path)  # literal, name, literal, …
                text = "".join(f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
                pattern = re.compile(text)
                known = {found.pattern: methods for found, methods in self.patterns}
                if text in known:
                    methods = known[text]
                else:
                    methods = {}
                    self.patterns.append((pattern, methods))
            methods.setdefault(route.method, (dialect, route))

    def find(self, method: str, path: str) -> tuple[Dialect, Route, Mapping[str, str]]:
        """Raises NotFound, and MethodNotAllowed with the allowed ones in its `args`."""
        methods, braces = self.exact.get(path), {}
        if methods is None:
            for pattern, found in self.patterns:
                if match := pattern.fullmatch(path):
                    methods, braces = found, match.groupdict()
                    break
            else:
                known = ", ".join(sorted(self.exact))
                raise NotFound(f"there is no {path!r} here; known: {known}")
        entry = methods.get("GET" if method == "HEAD" else method)
        if entry is None:
            raise MethodNotAllowed(f"{method} is not allowed on {path!r}; allowed: {allowed(methods)}")
        return (*entry, braces)

    def methods(self, path: str) -> Methods:
        """What is allowed on a path; empty where there is no such path."""
        if path in self.exact:
            return self.exact[path]
        return next((methods for pattern, methods in self.patterns if pattern.fullmatch(path)), {})


def allowed(methods: Methods) -> str:
    return ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
