"""Counting and the Prometheus text."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from anos.metrics import MAX_ERROR_SERIES, Metrics

Labels = frozenset[tuple[str, str]]


def scrape(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def test_an_empty_gateway_renders_its_families() -> None:
    body = Metrics().render()[0].decode()
    assert [line.split()[2] for line in body.splitlines() if line.startswith("# TYPE")] == [
        "anos_requests_total",
        "anos_errors_total",
        "anos_tokens_total",
        "anos_request_duration_seconds",
        "anos_overruns_total",
        "anos_budget_warnings_total",
        "anos_cost_usd_total",
    ]


def test_requests_and_errors_are_counted_by_route() -> None:
    metrics = Metrics()
    metrics.request("/v1/responses", 200, 0.02)
    metrics.request("/v1/responses", 200, 0.02)
    metrics.request("/v1/responses", 404, 0.001, code="not_found")
    metrics.request("/v1/responses", 400, 0.001, code=400)
    samples = scrape(metrics)
    assert samples["anos_requests_total", labels(route="/v1/responses", status="200")] == 2
    assert samples["anos_requests_total", labels(route="/v1/responses", status="404")] == 1
    assert samples["anos_errors_total", labels(route="/v1/responses", code="not_found")] == 1
    assert samples["anos_errors_total", labels(route="/v1/responses", code="400")] == 1


def test_durations_are_cumulative_with_inclusive_bounds() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.005, 0.006, 9000.0):
        metrics.request("/x", 200, seconds)
    samples = scrape(metrics)

    def bucket(bound: str) -> float:
        return samples["anos_request_duration_seconds_bucket", labels(route="/x", le=bound)]

    assert [bucket(le) for le in ("0.001", "0.0025", "0.005", "0.01", "600.0", "+Inf")] == [
        1,
        1,
        2,
        3,
        3,
        4,
    ]
    assert samples["anos_request_duration_seconds_count", labels(route="/x")] == 4
    assert samples["anos_request_duration_seconds_sum", labels(route="/x")] == 9000.0115


def test_only_configured_models_have_a_label_of_their_own() -> None:
    metrics = Metrics({"gpt-4"})
    metrics.tokens("gpt-4", 3, 10)
    metrics.tokens("gpt-4", 1, 1)
    metrics.tokens("stub/secret-name", 5, 6)
    samples = scrape(metrics)
    assert samples["anos_tokens_total", labels(model="gpt-4", direction="input")] == 4
    assert samples["anos_tokens_total", labels(model="gpt-4", direction="output")] == 11
    assert samples["anos_tokens_total", labels(model="other", direction="input")] == 5
    assert "secret-name" not in metrics.render()[0].decode()


def test_codes_an_upstream_invents_stay_bounded() -> None:
    metrics = Metrics()
    metrics.request("/x", 400, 0.1, code="the user's own words")
    for number in range(2 * MAX_ERROR_SERIES):
        metrics.request("/x", 400, 0.1, code=f"code_{number}")
    samples = [key for key in scrape(metrics) if key[0] == "anos_errors_total"]
    assert len(samples) == MAX_ERROR_SERIES
    assert "own words" not in metrics.render()[0].decode()


def test_nothing_is_imported_before_the_first_scrape() -> None:
    code = "import sys, anos.metrics; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
