"""Bodies made from the OpenAPI document, good and bad: never a 500, always what the document says."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from preftilt.server.app import create_app
from preftilt.testing.toy import ToyEngine
from tests.server.serving import server_config

APP = create_app(ToyEngine(), server_config())
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


@SCHEMA.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_the_server_keeps_to_its_document(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[*CHECKS])
