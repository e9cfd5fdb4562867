"""Columns of values as people have them, to the 64 bits that are stored: float64, int64 or uint64."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from metricsdb.errors import WriteError

Column = npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.uint64]

# What float64 gives back digit by digit: the store keeps decimals of so many digits exactly.
_DIGITS_MAX = 15
# Smaller numbers have fewer bits.
_NORMAL_MIN = float(np.finfo(np.float64).tiny)


def column(values: Any) -> Column:
    """One-dimensional float64 for floats and decimals, uint64 for uint64, int64 for other integers and booleans.

    Nothing is rounded but decimals, to the float64 that prints as the same decimal. Raises ``WriteError`` for nulls,
    for decimals of more than 15 significant digits, and for types that none of the three holds.
    """
    if isinstance(values, pl.Series):
        array = _series(values)
    elif isinstance(values, list | tuple):
        array = _sequence(values)
    else:
        array = np.asarray(values)
    array = np.atleast_1d(array)
    if array.ndim != 1:
        raise WriteError(f"values have {array.ndim} dimensions; give one")
    if array.dtype == object:
        array = _objects(array)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if array.size == 0 or (kind == "f" and size <= 8):
        return np.ascontiguousarray(array, dtype=np.float64)
    if kind == "u" and size == 8:
        return np.ascontiguousarray(array, dtype=np.uint64)
    if kind in "iub":
        return np.ascontiguousarray(array, dtype=np.int64)
    raise WriteError(f"values have dtype {array.dtype}; give floats, integers, booleans or decimals")


def _series(series: pl.Series) -> npt.NDArray[Any]:
    if series.null_count():
        raise WriteError(f"values hold {series.null_count()} nulls; drop those rows")
    if series.is_empty():
        return np.empty(0)
    if isinstance(series.dtype, pl.Decimal):
        return _decimals(series.cast(pl.String))
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean) or series.dtype in (pl.Int128, pl.UInt128):
        raise WriteError(f"values have dtype {series.dtype}; give floats, integers of 64 bits, booleans or decimals")
    return series.to_numpy()


def _decimals(text: pl.Series) -> npt.NDArray[np.float64]:
    # Through text, since a division of 128-bit integers would round twice.
    digits = text.str.replace_all(r"[-.]", "").str.strip_chars("0").str.len_bytes()
    if (digits > _DIGITS_MAX).any():
        at = digits.arg_max() or 0
        raise _too_long(text[at].rstrip("0"), digits[at])
    return text.cast(pl.Float64).to_numpy()


def _sequence(values: list[Any] | tuple[Any, ...]) -> npt.NDArray[Any]:
    array = np.asarray(values)
    # numpy makes floats of integers that it finds no one type for.
    if array.dtype.kind == "f" and array.ndim == 1 and all(isinstance(v, int | np.integer) for v in values):
        try:
            return np.array(values, dtype=np.uint64)
        except OverflowError:
            raise WriteError("values lie below 0 and above 2^63, and no integer of 64 bits holds both") from None
    return array


def _objects(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    for value in array:
        if not isinstance(value, Decimal):
            raise WriteError(f"value {value!r} is a {type(value).__name__} that no 64 bits hold; give numbers")
    return np.array([_decimal(value) for value in array], dtype=np.float64)


def _decimal(value: Decimal) -> float:
    if value.is_snan():
        raise WriteError("a signaling NaN is no value; give NaN")
    nearest = float(value)
    if not value.is_finite():
        return nearest
    digits = len("".join(map(str, value.as_tuple().digits)).strip("0"))
    if digits > _DIGITS_MAX:
        raise _too_long(value, digits)
    if digits and not _NORMAL_MIN <= abs(nearest) < float("inf"):
        raise WriteError(f"value {value} is too far from 1 for float64")
    return nearest


def _too_long(value: object, digits: int) -> WriteError:
    return WriteError(
        f"value {value} has {digits} significant digits, and float64 keeps {_DIGITS_MAX}; round it, or give floats"
    )
