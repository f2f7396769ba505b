"""The real service, started from this checkout, and real photos."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nativetok_client import ProblemError, Tokenizer
from nativetok_client.items import Pixels, Tokens

ROOT = Path(__file__).parents[3]
NODE = ROOT / "bin" / "node"
FIXTURES = ROOT / "test" / "fixtures"
BUNDLE = ROOT / "models" / "nativetok-128"
PHOTOS = sorted((FIXTURES / "photos").glob("*.webp"))
"""Photos of the model's size."""
SMALL = ["--engines", "1", "--threads", "1", "--max-batch", "8"]
"""A service that starts soon."""


class Service:
    """A process of the service."""

    def __init__(self, *arguments: str, port: int = 0):
        assert (ROOT / "node_modules").exists(), "the service is not installed: npm ci"
        command = [
            str(NODE),
            "src/server.ts",
            "--port",
            str(port),
            "--provider",
            "cpu",
            "--drain-delay",
            "0",
            *arguments,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(json.loads(line)["msg"])
            if said[-1].startswith("try: "):
                break
        self.url = next(line.removeprefix("listening on ") for line in said if line.startswith("listening on "))
        self.port = int(self.url.rsplit(":", 1)[1])

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, gracefully or not."""
        self.process.send_signal(signum)
        assert self.process.stdout
        self.process.stdout.close()
        self.process.wait(30)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values that have the labels."""
        text = urllib.request.urlopen(f"{self.url}/metrics").read().decode()
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(re.split(r"\s+", line)[-1])
        return total


Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services that end with the test."""
    started: list[Service] = []

    def begin(*arguments: str, port: int = 0) -> Service:
        started.append(Service(*arguments, port=port))
        return started[-1]

    yield begin
    for service in started:
        if service.process.poll() is None:
            service.end()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service with its default settings."""
    service = Service()
    yield service
    service.end()


@pytest.fixture(scope="session")
def tokenizer(service: Service) -> Iterator[Tokenizer]:
    with Tokenizer.connect(service.url) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="session")
def known(tokenizer: Tokenizer) -> Tokens:
    """The tokens of `PHOTOS`."""
    return tokenizer.encode(PHOTOS)


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """The pixels of `PHOTOS`."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in PHOTOS])


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class RateLimited:
    """What was seen of a service that takes three requests a minute."""

    refusal: ProblemError
    tokens: Tokens
    seconds: float
    """From the first refusal to the last answer."""
    refusals: float


@pytest.fixture(scope="session", autouse=True)
def rate_limited(request: pytest.FixtureRequest) -> Iterator[Future[RateLimited] | None]:
    """A minute of waiting, which goes by beside the other tests."""
    if not any(item.name.startswith("test_429") for item in request.session.items):
        yield None
        return
    service = Service("--rate-limit", "3", *SMALL)

    def wait_it_out() -> RateLimited:
        with Tokenizer.connect(service.url) as tokenizer:
            tokenizer.encode(PHOTOS[:1], 4)
            tokenizer.encode(PHOTOS[:1], 4)
            start = time.monotonic()
            with pytest.raises(ProblemError) as caught:
                Tokenizer.connect(service.url, patience=0)
            tokens = tokenizer.encode(PHOTOS[:2], 4)
            seconds = time.monotonic() - start
        return RateLimited(caught.value, tokens, seconds, service.metric("nativetok_errors_total", kind="rate-limited"))

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait_it_out)
    service.end()
