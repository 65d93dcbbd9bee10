from __future__ import annotations

import json

import pytest

import documents
from gaincurate.report.document import from_json, to_json, to_text


def test_a_document_survives_its_json() -> None:
    document = documents.example()
    assert from_json(json.loads(to_text(document))) == document
    assert from_json(to_json(document)) == document
    assert to_text(document) == to_text(documents.example())


def test_what_is_no_document_is_refused() -> None:
    with pytest.raises(ValueError, match="about"):
        from_json({"format": 1})
