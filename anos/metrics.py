"""What the gateway counts, and its rendering for Prometheus.

Counting is a dict entry; prometheus-client's objects are made when somebody scrapes: its own
counters cost four times as much on every request.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# From a refusal out of memory (1 ms) to a long reasoning answer (10 min).
BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    600,
)

# Our own codes are a few dozen, but an upstream's code passes through and may be anything.
MAX_ERROR_SERIES = 500
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

OTHER = "other"


class Metrics:
    """Counters and one histogram; no label ever holds a key, an id or a user's text.

    `models` are the configured names, any other is counted as "other"; replaced at a reload.
    """

    def __init__(self, models: Collection[str] = ()) -> None:
        self.models = models
        self._requests: dict[tuple[str, int], int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._tokens: dict[str, list[int]] = {}  # input, output
        self._costs: dict[str, int] = {}  # micro-dollars
        self._overruns: dict[str, int] = {}
        self._warnings: dict[str, int] = {}
        # A count for each bucket, one for what is above them all, then the sum of the seconds.
        self._durations: dict[str, list[float]] = {}

    def request(self, route: str, status: int, seconds: float, *, code: str | int = "") -> None:
        """One answered request; `route` is the path's template, `code` its error's, if any."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = [0] * (len(BUCKETS_S) + 2)
        durations[bisect_left(BUCKETS_S, seconds)] += 1
        durations[-1] += seconds
        if code:
            self._error(route, str(code))

    def tokens(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """What one exchange used, as the upstream reported it."""
        if model not in self.models:
            model = OTHER
        counts = self._tokens.get(model)
        if counts is None:
            counts = self._tokens[model] = [0, 0]
        counts[0] += input_tokens
        counts[1] += output_tokens

    def cost(self, model: str, micro: int) -> None:
        """What one exchange cost, in micro-dollars."""
        model = model if model in self.models else OTHER
        self._costs[model] = self._costs.get(model, 0) + micro

    def overrun(self, model: str) -> None:
        """An exchange cost more than was reserved for it."""
        model = model if model in self.models else OTHER
        self._overruns[model] = self._overruns.get(model, 0) + 1

    def budget_warning(self, budget: str) -> None:
        """A call was let in above the soft amount of a budget, "key:ci month"."""
        if budget not in self._warnings and len(self._warnings) >= MAX_ERROR_SERIES:
            budget = OTHER
        self._warnings[budget] = self._warnings.get(budget, 0) + 1

    def render(self) -> tuple[bytes, str]:
        """The body and the Content-Type of `GET /metrics`, in Prometheus' text format."""
        # Imported when first asked for: a gateway nobody scrapes need not hold it.
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> "Iterator[Metric]":
        """The families as prometheus-client wants them from a collector."""
        from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "anos_requests", "Requests answered.", labels=("route", "status")
        )
        for (route, status), count in self._requests.items():
            requests.add_metric((route, str(status)), count)
        errors = CounterMetricFamily(
            "anos_errors", "Requests that failed.", labels=("route", "code")
        )
        for (route, code), count in self._errors.items():
            errors.add_metric((route, code), count)
        tokens = CounterMetricFamily("anos_tokens", "Tokens used.", labels=("model", "direction"))
        for model, (input_tokens, output_tokens) in self._tokens.items():
            tokens.add_metric((model, "input"), input_tokens)
            tokens.add_metric((model, "output"), output_tokens)
        seconds = HistogramMetricFamily(
            "anos_request_duration_seconds",
            "From a request's head to its last byte.",
            labels=("route",),
        )
        bounds = [*map(str, map(float, BUCKETS_S)), "+Inf"]
        for route, (*counts, total) in self._durations.items():
            seconds.add_metric((route,), list(zip(bounds, accumulate(counts), strict=True)), total)
        yield from (requests, errors, tokens, seconds)
        yield from self._money()

    def _money(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import CounterMetricFamily

        costs = CounterMetricFamily("anos_cost_usd", "Dollars spent.", labels=("model",))
        for model, micro in self._costs.items():
            costs.add_metric((model,), micro / 1e6)
        for name, help_text, label, counts in (
            ("anos_overruns", "Calls that cost more than reserved.", "model", self._overruns),
            ("anos_budget_warnings", "Calls over a soft budget.", "budget", self._warnings),
        ):
            family = CounterMetricFamily(name, help_text, labels=(label,))
            for value, count in counts.items():
                family.add_metric((value,), count)
            yield family
        yield costs

    def _error(self, route: str, code: str) -> None:
        key = (route, code)
        if key not in self._errors and (
            len(self._errors) >= MAX_ERROR_SERIES or not _CODE.fullmatch(code)
        ):
            key = (route, OTHER)
        self._errors[key] = self._errors.get(key, 0) + 1
