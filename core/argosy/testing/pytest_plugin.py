"""Fixtures for tests of models and fleets: `pytest_plugins = ["argosy.testing.pytest_plugin"]` in a conftest.py."""

from __future__ import annotations

import pytest

from ..registry import Registry, load
from ..runtime.meter import Recorder
from . import models
from .backend import MockBackend


@pytest.fixture
def mock_backend() -> MockBackend:
    """One device of 8 GiB."""
    return MockBackend()


@pytest.fixture
def mock_registry() -> Registry:
    """What is installed, and beside it the mock models and a backend `mock`."""
    return load([("mock", models)])


@pytest.fixture
def recorder() -> Recorder:
    """A meter that keeps every figure."""
    return Recorder()
