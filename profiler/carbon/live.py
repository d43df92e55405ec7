"""Carbon intensity from a live source: contacted only when a person asked for it by name, and never from a training.

Great Britain's National Energy System Operator publishes half-hourly intensities without a key
(https://carbon-intensity.github.io/api-definitions, `GET /intensity/{from}/{to}`, at most 14 days a request). Its
figures are averages of generation, without the making of power plants; what is measured replaces the forecast half
an hour or so later, and where it has not yet, the forecast is taken and said.

Whatever goes wrong is no exception: the series comes back without rows and says why.
"""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from profiler.carbon.series import IntensitySeries, Interval
from profiler.errors import InvalidValueError, UnknownNameError

GB_URL = "https://api.carbonintensity.org.uk"
TIMEOUT_S = 10.0
_REQUEST_S = 13 * 86_400.0
_HALF_HOUR_S = 1_800.0
_MOST_BYTES = 4_000_000


class IntensitySource(Protocol):
    """Where a series comes from."""

    def over(self, start_s: float, end_s: float) -> IntensitySeries:
        """The intensity from `start_s` to `end_s`, Unix seconds, as far as it is known."""
        ...


class GreatBritain:
    """The API of Great Britain's system operator.

    Args:
        url: Where it answers.
        timeout_s: How long one request may take.
    """

    def __init__(self, url: str = GB_URL, timeout_s: float = TIMEOUT_S) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def over(self, start_s: float, end_s: float) -> IntensitySeries:
        """Half hours of Great Britain's grid; none, and why, if the API did not answer well."""
        rows: dict[float, tuple[Interval, bool]] = {}
        try:
            for first_s, last_s in _requests(start_s, end_s):
                for item in self._ask(first_s, last_s)["data"]:
                    row, forecast = _row(item)
                    rows[row.start_s] = (row, forecast)
            found = [rows[key] for key in sorted(rows)]
            said = ", with forecasts where nothing is measured yet" if any(f for _, f in found) else ""
            return IntensitySeries(rows=tuple(row for row, _ in found), source=f"{self._name}{said}")
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            return self._nothing(f"did not answer: {getattr(error, 'reason', None) or error}")
        except (KeyError, TypeError, ValueError, InvalidValueError) as error:
            return self._nothing(f"answered something else than expected: {error}")

    @property
    def _name(self) -> str:
        return f"Great Britain, half-hourly, {self._url}"

    def _nothing(self, why: str) -> IntensitySeries:
        return IntensitySeries(rows=(), source=self._name, missing=f"{self._url} {why}")

    def _ask(self, start_s: float, end_s: float) -> Mapping[str, Any]:
        url = f"{self._url}/intensity/{_path(start_s, end_s)}"
        request = urllib.request.Request(
            url, headers={"Accept": "application/json", "User-Agent": "joulescale"}
        )
        with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
            found: Mapping[str, Any] = json.loads(answer.read(_MOST_BYTES))
        return found


def live_source(name: str) -> IntensitySource:
    """The live source called `name`: so far only `gb`.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in _SOURCES:
        raise UnknownNameError("live source of carbon intensity", name, _SOURCES)
    return _SOURCES[name]()


_SOURCES = {"gb": GreatBritain}


def _requests(start_s: float, end_s: float) -> Iterator[tuple[float, float]]:
    at_s = start_s
    while at_s < end_s:
        yield at_s, min(at_s + _REQUEST_S, end_s)
        at_s += _REQUEST_S


def _path(start_s: float, end_s: float) -> str:
    """From a minute after a half hour's beginning, since its very beginning belongs to the half hour before."""
    first_s = math.floor(start_s / _HALF_HOUR_S) * _HALF_HOUR_S + 60.0
    last_s = math.ceil(end_s / _HALF_HOUR_S) * _HALF_HOUR_S
    return "/".join(f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%MZ}" for time_s in (first_s, last_s))


def _row(item: Mapping[str, Any]) -> tuple[Interval, bool]:
    start_s, end_s = (datetime.fromisoformat(item[key]).timestamp() for key in ("from", "to"))
    actual, forecast = item["intensity"]["actual"], item["intensity"]["forecast"]
    value = float(forecast if actual is None else actual)
    return Interval(start_s, end_s, value, value, value), actual is None
