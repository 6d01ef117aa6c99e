"""Mock backends, mock models, contract tests: for us and for plugin authors.

async with running(Sentiment) as replica:          # a real replica of your model, on a mock device
    await replica.answer(request, Context("1"))

check_model(Sentiment)                             # what every model has to keep to
await check_answers(assignment(Sentiment))         # and, loaded, what every running one has to
check_backend(MyBackend())                         # what every backend has to keep to, on this machine
check_backend(MyBackend(), folder)                 # and on one whose files lie there
"""

from .backend import MockBackend
from .contract import check_answers, check_model
from .fleet import assignment, installed, running
from .vendor import check_backend

__all__ = ["MockBackend", "assignment", "check_answers", "check_backend", "check_model", "installed", "running"]
