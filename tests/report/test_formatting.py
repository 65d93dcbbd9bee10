from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincurate.report import parts as formatting


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\ttext\nin two lines", "plain\ttext\nin two lines"),
        ("right\u202eleft", "right\\u202eleft"),
        ("two\u2028lines\u2029", "two\\u2028lines\\u2029"),
        ("nul\x00 bell\x07 delete\x7f", "nul\\u0000 bell\\u0007 delete\\u007f"),
        ("a lone \ud800 half", "a lone \\ud800 half"),
        ("a pair \ud83d\ude00 of halves", "a pair \U0001f600 of halves"),
        ("joined \U0001f468\u200d\U0001f4bb", "joined \U0001f468\u200d\U0001f4bb"),
    ],
)
def test_what_has_no_shape_is_written_out(text: str, seen: str) -> None:
    assert formatting.shown(text) == seen


@given(st.text())
def test_shown_text_can_be_written_and_is_left_alone_the_second_time(text: str) -> None:
    seen = formatting.shown(text)
    seen.encode()
    assert all(c.isprintable() or c in "\t\n" or ord(c) > 0x9F for c in seen)
    assert formatting.shown(seen) == seen


@pytest.mark.parametrize(
    ("form", "values", "seen"),
    [
        (
            formatting.number,
            [None, 0.0, 0.123456, -0.00123, 12.3456],
            ["–", "0", "0.123", "−0.00123", "12.3"],
        ),
        (formatting.number, [12345.6, 1e-12, -2.5e12], ["12,346", "1.00e−12", "−2.50e+12"]),
        (formatting.signed, [0.123, -0.3, 1.0, None], ["+0.12", "−0.30", "+1.00", "–"]),
        (formatting.signed, [-0.001, 0.0], ["0.00", "0.00"]),
        (formatting.share, [0.0, 1.0, 0.5, 0.0345, None], ["0 %", "100 %", "50 %", "3.5 %", "–"]),
        (formatting.share, [0.9967, 0.0004, 0.9996], ["99.7 %", "< 0.1 %", "> 99.9 %"]),
        (formatting.seconds, [9.96, 59.4, 200, 7500], ["10.0 s", "59 s", "3 min 20 s", "2 h 05 min"]),
    ],
)
def test_numbers(form: Any, values: list[float | None], seen: list[str]) -> None:
    assert [form(value) for value in values] == seen


@given(st.floats(-1e300, 1e300))
def test_a_number_says_its_value_to_three_digits(value: float) -> None:
    seen = float(formatting.number(value).replace(",", "").replace("−", "-"))
    assert math.isclose(seen, value, rel_tol=0.006)
