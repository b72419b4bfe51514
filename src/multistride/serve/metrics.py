"""Prometheus metrics, named as vLLM names its own where it has the same one.

Replicas of one machine write theirs into a directory that they share (`DIRECTORY`, an environment
variable of prometheus_client), and each answers with the sums over all of them.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Must be set before the library is imported; its makers chose the name."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Bounds of the histograms of times."""


class Metrics:
    """The counters of one server. Every one has the label `model`; `of` gives those of a model."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(
                f"multistride_{name}",
                text,
                model,
                registry=self.registry,
                multiprocess_mode="livesum",
            )

        def counter(name: str, text: str, labels: list[str] = model) -> Counter:
            return Counter(f"multistride_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(
                f"multistride_{name}_seconds", text, model, registry=self.registry, buckets=SECONDS
            )

        self.all: dict[str, Any] = {
            "running": gauge("num_requests_running", "Requests in the running batch."),
            "waiting": gauge("num_requests_waiting", "Requests that wait for a place in it."),
            "first": seconds("time_to_first_token", "From the request to its first group."),
            "between": seconds(
                "inter_token_latency", "Time of a group over the number of its tokens."
            ),
            "whole": seconds("e2e_request_latency", "From the request to its last token."),
            "prompt_tokens": counter("prompt_tokens", "Tokens read of sources and prompts."),
            "tokens": counter("generation_tokens", "Tokens written."),
            "steps": counter("decode_steps", "Decoder passes."),
            "drafted": counter("spec_decode_num_draft_tokens", "Tokens drafted in exact mode."),
            "accepted": counter("spec_decode_num_accepted_tokens", "Drafts that stood."),
        }
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

    def of(self, model: str) -> ModelMetrics:
        """Return the counters of one model."""
        return ModelMetrics(self, model)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        if DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)
        return generate_latest(everyone)


class ModelMetrics:
    """The counters of one model, each looked up once: a step counts for every row."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        every = {name: metric.labels(model) for name, metric in metrics.all.items()}
        self.running: Gauge = every["running"]
        self.waiting: Gauge = every["waiting"]
        self.first: Histogram = every["first"]
        self.between: Histogram = every["between"]
        self.whole: Histogram = every["whole"]
        self.prompt_tokens: Counter = every["prompt_tokens"]
        self.tokens: Counter = every["tokens"]
        self.steps: Counter = every["steps"]
        self.drafted: Counter = every["drafted"]
        self.accepted: Counter = every["accepted"]
        self.of_mode = cache(lambda mode: metrics.group_size.labels(model, mode))
        self.ended = cache(lambda reason: metrics.requests.labels(model, reason))


def forget_the_dead() -> None:
    """Remove what replicas that are gone had running and waiting."""
    for path in Path(os.environ[DIRECTORY]).glob("gauge_live*_*.db"):
        number = path.stem.rpartition("_")[2]
        if number.isdigit() and not _lives(int(number)):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Return True if there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
