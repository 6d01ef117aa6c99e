"""Everything Argosy raises on purpose.

ArgosyError                      what was wanted, what was found, what to type next
├── FleetError                   the fleet file says something that cannot be
├── PluginError                  a plugin or backend is broken, missing, or made for another API
├── WeightsError                 weights are missing, corrupt, refused, or too big
├── PlanError                    a service fits nowhere
├── ReplicaError                 a replica cannot load, prove itself, or answer its canary
├── ClusterError                 Ray, a port, or control is not as it should be
├── MachineError                 the doctor found what keeps a fleet from running on this machine
└── RequestError                 one request is refused; every dialect gives it its own shape
    ├── BadRequest 400           ├── TooLarge 413            ├── Overloaded 503 (+ retry_after)
    ├── NotFound 404             ├── UnsupportedMedia 415    ├── DeadlineExceeded 504
    ├── MethodNotAllowed 405     ├── NotAcceptable 406       └── ModelFailed 500
"""

from __future__ import annotations


class ArgosyError(Exception):
    """An error with a way out. `str()` of it is the whole sentence that a person sees."""

    exit_code = 1

    def __init__(self, wanted: str, found: str = "", fix: str = "") -> None:
        self.wanted, self.found, self.fix = wanted, found, fix
        parts = [wanted, found and f"found: {found}", fix and f"try: {fix}"]
        super().__init__("; ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:  # exceptions cross process borders in Ray
        return type(self), (self.wanted, self.found, self.fix)


class FleetError(ArgosyError):
    """The fleet file is wrong. `problems` holds one sentence each: file:line, field, found, allowed."""

    exit_code = 2

    def __init__(self, wanted: str, found: str = "", fix: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(wanted, found, fix)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.wanted, self.found, self.fix, self.problems)


class PluginError(ArgosyError):
    exit_code = 3


class WeightsError(ArgosyError):
    exit_code = 4


class PlanError(ArgosyError):
    exit_code = 5


class ReplicaError(ArgosyError):
    exit_code = 6


class ClusterError(ArgosyError):
    exit_code = 7


class MachineError(ArgosyError):
    exit_code = 8


class RequestError(Exception):
    """One request is refused. `code` is stable and machine-readable; `param` names the field at fault, if one is."""

    status = 500
    code = "internal_error"
    retry_after: float | None = None  # seconds, only where trying again can help

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(kind: type[RequestError], message: str, state: dict[str, object]) -> RequestError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class BadRequest(RequestError):
    status, code = 400, "invalid_request"


class NotFound(RequestError):
    status, code = 404, "not_found"


class MethodNotAllowed(RequestError):
    status, code = 405, "method_not_allowed"


class NotAcceptable(RequestError):
    status, code = 406, "not_acceptable"


class TooLarge(RequestError):
    status, code = 413, "too_large"


class UnsupportedMedia(RequestError):
    status, code = 415, "unsupported_media_type"


class ModelFailed(RequestError):
    """The model raised while it answered. The message names the request, never the model's internals."""

    status, code = 500, "model_failed"


class Overloaded(RequestError):
    """The queue is at its bound, or the service is absent. `retry_after` is in seconds."""

    status, code = 503, "overloaded"

    def __init__(self, message: str, *, retry_after: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    status, code = 504, "deadline_exceeded"
