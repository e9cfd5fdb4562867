"""What a query remarks on beside its answer: the kinds of remarks, without metrics, values and places."""

from __future__ import annotations

import re

MIXED_TYPES = "PromQL warning: encountered a mix of histograms and floats for metric name"
MIXED_SCHEMAS = (
    "PromQL warning: vector contains a mix of histograms with exponential and custom buckets schemas for metric name"
)
MIXED_AGGREGATION = "PromQL warning: encountered a mix of histograms and floats for aggregation"
IGNORED = "PromQL info: ignored histograms in a range containing both floats and histograms for metric name"
BAD_BOUND = 'PromQL warning: bucket label "le" is missing or has a malformed value of'
NOT_COUNTER = "PromQL warning: this native histogram metric is not a counter:"
NOT_GAUGE = "PromQL warning: this native histogram metric is not a gauge:"
RECONCILED = "PromQL info: mismatched custom buckets were reconciled during"
NO_COUNTER_NAME = "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket:"

# Whether samples were known to be resets hangs on how they are stored; what lacks in buckets, on rounding.
UNTOLD = ("conflicting counter resets", "NaN observations")


def kind_of(message: str) -> str:
    """A remark of the evaluator without metric, bucket bounds and place."""
    message = re.sub(r" \(\d+:\d+\)$", "", message).split(" (see")[0]
    if "binary operator" in message:
        return message
    message = re.sub(r' "(?!le").*', "", message)
    optional = ("NaN observations", "mix of classic")
    return message.removesuffix(" for metric name") if any(words in message for words in optional) else message


_said: set[str] = set()
_perhaps: set[str] = set()


def remark(kind: str) -> None:
    _said.add(kind)


def perhaps(kind: str) -> None:
    """The evaluator may remark on that, or not."""
    _perhaps.add(kind)


def out_of_range(quantile: float) -> None:
    if not 0 <= quantile <= 1:
        remark(f"PromQL warning: quantile value should be between 0 and 1, got {quantile:g}")


def take() -> tuple[set[str], set[str]]:
    """What was remarked since the last time, and what may be as well."""
    said = set(_said), set(_perhaps)
    _said.clear()
    _perhaps.clear()
    return said
