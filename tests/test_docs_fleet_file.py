"""docs/fleet-file.md names every field of the schema, with the default that it has, and every setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from argosy.fleet.file import parse
from argosy.fleet.schema import RESERVED, Cache, DeviceSpec, Endpoint, Fleet, Node, Service, Variant
from argosy.settings import PREFIX, Settings

PAGE = (Path(__file__).parent.parent / "docs/fleet-file.md").read_text("utf-8")
SECTIONS = {match[1]: match[2] for match in re.finditer(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}


def rows(section: str) -> dict[str, str]:
    """Field -> what stands under `default`."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SECTIONS[section], re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("The file", set(Fleet.model_fields)),
        ("A service", set(Service.model_fields) - set(Variant.model_fields)),
        ("A variant", set(Variant.model_fields)),
        ("A node", set(Node.model_fields)),
        ("The endpoint", set(Endpoint.model_fields)),
        ("The weights cache", set(Cache.model_fields)),
    ],
)
def test_every_field_has_its_row_and_no_row_is_of_a_field_that_is_gone(section, fields):
    assert set(rows(section)) == fields


def test_the_fields_of_a_device_the_reserved_names_and_the_settings_are_named():
    assert set(DeviceSpec.model_fields) <= set(re.findall(r"`(\w+)`", SECTIONS["A node"]))
    assert RESERVED - {"-"} == set(re.findall(r"`(\w+)`", re.search(r"^The names (.*)$", PAGE, re.MULTILINE)[1]))
    assert {PREFIX + name.upper() for name in Settings.model_fields} == set(re.findall(r"ARGOSY_[A-Z_]+", PAGE))


def test_the_defaults_on_the_page_are_those_of_the_schema():
    service, endpoint = rows("A service"), rows("The endpoint")
    for name in ("replicas", "queue", "timeout", "start_timeout", "depth"):
        assert float(service[name]) == Service.model_fields[name].default
    assert service["body"] == f"{Service.model_fields['body'].default // 2**20} MiB"
    assert service["fallback"] == f"`{Service.model_fields['fallback'].default}`"
    assert (endpoint["host"], int(endpoint["port"])) == (f"`{Endpoint().host}`", Endpoint().port)
    assert rows("The file")["name"] == f"`{Fleet.model_fields['name'].default}`"


def test_the_example_is_a_fleet_file():
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    fleet = parse(example, Path("fleet.yaml"))
    assert [way.memory for way in fleet.services["embeddings"].ways()] == [2**30, None]
