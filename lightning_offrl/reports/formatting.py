"""How reports write numbers: every one with a true minus sign, and as many digits as a reader can use."""

from __future__ import annotations

import math

_MINUS = "\N{MINUS SIGN}"


def true_minus(text: str) -> str:
    """Hyphens as minus signs.

    >>> true_minus("-1 to 1")
    '−1 to 1'
    """
    return text.replace("-", _MINUS)


def short_number(value: float) -> str:
    """A return as a reader wants it: no decimals from 10 on, else two.

    >>> short_number(-1234.5), short_number(0.123)
    ('−1,234', '0.12')
    """
    return true_minus(f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}")


def mean_and_error(mean: float, error: float) -> str:
    """A mean and its standard error with the same number of decimals; the mean alone where the error is nan.

    >>> mean_and_error(-70.26, 14.9), mean_and_error(70.26, 0.5), mean_and_error(1.5, float("nan"))
    ('−70 ± 15', '70.26 ± 0.50', '1.50')
    """
    if math.isnan(error):
        return short_number(mean)
    decimals = 0 if error >= 10 else 1 if error >= 1 else 2
    return true_minus(f"{mean:,.{decimals}f} ± {error:,.{decimals}f}")


def four_digits(value: float | None) -> str:
    """Four significant digits; a dash for None, nan and infinity.

    >>> four_digits(-12.3456), four_digits(None)
    ('−12.35', '–')
    """
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else true_minus(f"{value:.4g}")


def tick_label(value: float, _: object = None) -> str:
    """Thousands separated, decimals only where they say something.

    >>> tick_label(-1000.0), tick_label(0.25)
    ('−1,000', '0.25')
    """
    return true_minus(f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}")


def percent(share: float) -> str:
    """A share in percent, never rounded to none or all.

    >>> percent(0.5), percent(0.0001), percent(0.99999), percent(0.0)
    ('50 %', '<0.1 %', '>99.9 %', '0 %')
    """
    if 0.0 < share < 0.0005 or 0.9995 < share < 1.0:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.1f}".rstrip("0").rstrip(".") + " %"


def counted(count: int, one: str, more: str = "") -> str:
    """A count and what it counts, in the singular or the plural.

    >>> counted(1, "policy", "policies"), counted(3, "episode")
    ('1 policy', '3 episodes')
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"
