"""Prometheus metrics, named as vLLM names its own where it has the same one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bounds of the histograms of times."""


class Metrics:
    """The counters of one server. Every one has the label `model`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"multistride_{name}", text, model, registry=self.registry)

        def counter(name: str, text: str, labels: list[str] = model) -> Counter:
            return Counter(f"multistride_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(
                f"multistride_{name}_seconds", text, model, registry=self.registry, buckets=SECONDS
            )

        self.running = gauge("num_requests_running", "Requests in the running batch.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a place in it.")
        self.first = seconds("time_to_first_token", "From the request to its first group.")
        self.between = seconds(
            "inter_token_latency", "Time of a group over the number of its tokens."
        )
        self.whole = seconds("e2e_request_latency", "From the request to its last token.")
        self.prompt_tokens = counter("prompt_tokens", "Tokens read of sources and prompts.")
        self.tokens = counter("generation_tokens", "Tokens written.")
        self.steps = counter("decode_steps", "Decoder passes.")
        self.drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted in exact mode.")
        self.accepted = counter("spec_decode_num_accepted_tokens", "Drafts that stood.")
        self.requests = counter(
            "request_success", "Requests that ended, by the reason.", ["model", "finished_reason"]
        )
        self.group_size = Histogram(
            "multistride_group_size",
            "Tokens proposed per row and step.",
            ["model", "mode"],
            registry=self.registry,
            buckets=(1, 2, 3, 4, 6, 8, 12, 16),
        )

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self.registry)
