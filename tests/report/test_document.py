from __future__ import annotations

import json

import pytest

import documents
from gaincurate.report.document import from_json, to_json


def test_a_document_survives_its_json() -> None:
    document = documents.example()
    assert from_json(json.loads(json.dumps(to_json(document), allow_nan=False))) == document


def test_what_is_no_document_is_refused() -> None:
    with pytest.raises(ValueError, match="about"):
        from_json({"format": 1})
