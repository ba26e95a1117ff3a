"""What several tests of curvature share."""

import jax
import pytest


@pytest.fixture
def compilations():
    """Count backend compilations through JAX's own monitoring events."""
    seen = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)
