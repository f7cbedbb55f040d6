"""Numbers as people write them: in tables, at axes, in sentences."""

from __future__ import annotations

import math


def short_number(value: float) -> str:
    """Return four digits at most of a number, whole numbers whole; nothing for NaN.

    >>> short_number(123456), short_number(0.000123456), short_number(float("nan")), short_number(float("inf"))
    ('123456', '0.0001235', '', '∞')
    """
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.4g}".replace("inf", "∞")


def power_of_ten(value: float) -> str:
    """Return a short label: plain from 0.001 to 1,000, a power of ten beyond.

    >>> power_of_ten(0.02), power_of_ten(1e-7), power_of_ten(2e12)
    ('0.02', '10⁻⁷', '2×10¹²')
    """
    if value == 0 or 1e-3 <= abs(value) < 9999:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = f"{float(mantissa):g}"
    return f"10{raised}" if factor == "1" else f"{factor}×10{raised}"


def change(new: float, old: float) -> str:
    """Return ``new`` over ``old`` in words.

    >>> change(8.0, 2.0), change(1.0, 1.05), change(0.0, 1.0)
    ('4 times', '0.952 times', '0 times')
    """
    return f"{readable(new / old)} times"


def readable(value: float) -> str:
    """Return three digits of a number as one writes it in a sentence.

    >>> readable(1303.2), readable(0.0765432), readable(3.2e9), readable(4.4e-7)
    ('1,300', '0.0765', '3.2×10⁹', '4.4×10⁻⁷')
    """
    if value and not 1e-4 <= abs(value) < 1e6:
        return power_of_ten(value)
    return f"{float(f'{value:.3g}'):,.15g}"


def percent(share: float) -> str:
    """Return a share as percent, with two digits.

    >>> percent(0.0123), percent(0.5), percent(25.0)
    ('1.2 %', '50 %', '2,500 %')
    """
    value = 100 * float(share)
    return f"{float(f'{value:.2g}'):,.15g} %"
