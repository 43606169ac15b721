"""Units of columns: a factor and an offset from one to the other."""

from __future__ import annotations

import difflib

from lightning_offrl.errors import InputError

# Of what, how many of the base unit, and where its zero lies on the base unit's scale.
_UNITS: dict[str, tuple[str, float, float]] = {
    "m": ("length", 1.0, 0.0),
    "mm": ("length", 1e-3, 0.0),
    "cm": ("length", 1e-2, 0.0),
    "km": ("length", 1e3, 0.0),
    "in": ("length", 0.0254, 0.0),
    "ft": ("length", 0.3048, 0.0),
    "mi": ("length", 1609.344, 0.0),
    "kg": ("mass", 1.0, 0.0),
    "g": ("mass", 1e-3, 0.0),
    "mg": ("mass", 1e-6, 0.0),
    "ug": ("mass", 1e-9, 0.0),
    "lb": ("mass", 0.45359237, 0.0),
    "s": ("time", 1.0, 0.0),
    "ms": ("time", 1e-3, 0.0),
    "us": ("time", 1e-6, 0.0),
    "ns": ("time", 1e-9, 0.0),
    "min": ("time", 60.0, 0.0),
    "h": ("time", 3600.0, 0.0),
    "d": ("time", 86400.0, 0.0),
    "K": ("temperature", 1.0, 0.0),
    "degC": ("temperature", 1.0, 273.15),
    "degF": ("temperature", 5.0 / 9.0, 459.67 * 5.0 / 9.0),
    "rad": ("angle", 1.0, 0.0),
    "deg": ("angle", 0.017453292519943295, 0.0),
    "Pa": ("pressure", 1.0, 0.0),
    "kPa": ("pressure", 1e3, 0.0),
    "bar": ("pressure", 1e5, 0.0),
    "mmHg": ("pressure", 133.322387415, 0.0),
    "psi": ("pressure", 6894.757293168, 0.0),
    "m/s": ("speed", 1.0, 0.0),
    "km/h": ("speed", 1.0 / 3.6, 0.0),
    "mph": ("speed", 0.44704, 0.0),
    "l": ("volume", 1.0, 0.0),
    "ml": ("volume", 1e-3, 0.0),
    "J": ("energy", 1.0, 0.0),
    "kJ": ("energy", 1e3, 0.0),
    "kWh": ("energy", 3.6e6, 0.0),
    "1": ("share", 1.0, 0.0),
    "%": ("share", 0.01, 0.0),
}


def conversion(old: str, new: str, where: str) -> tuple[float, float]:
    """Factor and offset with ``new = factor * old + offset``.

    Args:
        old: unit of the column.
        new: unit that is wanted.
        where: begins the message.

    Raises:
        InputError: for a unit that is not known, or two that do not measure the same.

    >>> factor, offset = conversion("degF", "degC", "")
    >>> round(factor * 212 + offset, 9), conversion("h", "min", "")
    (100.0, (60.0, 0.0))
    """
    for unit in (old, new):
        if unit not in _UNITS:
            lower = {name.lower(): name for name in _UNITS}
            near = difflib.get_close_matches(unit.lower(), lower, 1, cutoff=0.4)
            hint = f"did you mean {lower[near[0]]!r}? " if near else ""
            raise InputError(
                f"{where} is to be converted with the unit {unit!r}, which is not known; {hint}known are "
                f"{', '.join(_UNITS)}; for others give scale and shift (new = scale * old + shift)"
            )
    (kind, size, zero), (other, new_size, new_zero) = _UNITS[old], _UNITS[new]
    if kind != other:
        raise InputError(f"{where} cannot be converted from {old} ({kind}) to {new} ({other})")
    return size / new_size, (zero - new_zero) / new_size


def seconds(text: str | int | float, where: str) -> float:
    """A duration such as ``6h``, ``30 min`` or ``90`` (seconds, or whatever the time column counts).

    Raises:
        InputError: for anything else, or one that is not above zero.

    >>> seconds("6h", ""), seconds(" 1.5 min ", ""), seconds(90, "")
    (21600.0, 90.0, 90.0)
    """
    words = str(text).strip()
    number = words.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = words[len(number) :].strip()
    times = {name: size for name, (kind, size, _) in _UNITS.items() if kind == "time"}
    try:
        value = float(number) * (times[unit] if unit else 1.0)
    except (ValueError, KeyError):
        value = -1.0
    if isinstance(text, bool) or not 0.0 < value < float("inf"):
        raise InputError(f"{where} must be a duration above zero such as 6h, 30min or 90, got {text!r}")
    return value
