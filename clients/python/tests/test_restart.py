"""A service that dies and comes back while it is used."""

import hashlib
import json
import shutil
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import BUNDLE, PHOTOS, SMALL, Start

from nativetok_client import ModelChangedError, Tokenizer, UnreachableError
from nativetok_client.items import Pixels, Tokens


def test_nothing_is_lost_or_done_twice(
    start: Start, known: Tokens, pixels: Pixels, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of encoding and decoding, and started again on the same port."""
    service = start(*SMALL)
    sent: Counter[bytes] = Counter()
    answered: Counter[bytes] = Counter()
    progress = threading.Condition()
    whole = httpx.AsyncClient.request

    async def request(client: httpx.AsyncClient, method: str, url: str, **rest: Any) -> httpx.Response:
        if "content" not in rest:  # another test's
            return await whole(client, method, url, **rest)
        body = hashlib.sha256(rest["content"]).digest()
        sent[body] += 1
        response = await whole(client, method, url, **rest)
        if response.is_success:
            answered[body] += 1
            with progress:
                progress.notify_all()
        return response

    which = np.random.default_rng(1).integers(0, len(PHOTOS), 300)
    drawn = tokenizer.decode(known)
    with Tokenizer.connect(service.url) as encoding, Tokenizer.connect(service.url) as decoding:
        monkeypatch.setattr(httpx.AsyncClient, "request", request)
        with ThreadPoolExecutor() as pool:
            tokens = pool.submit(encoding.encode, pixels[which], 32)
            images = pool.submit(decoding.decode, known[which])
            with progress:
                assert progress.wait_for(lambda: len(answered) >= 3, 60)
            service.end(signal.SIGKILL)
            start(*SMALL, port=service.port)
            assert np.array_equal(tokens.result(120), known[which, :32])
            assert np.array_equal(images.result(120), drawn[which])
    assert len(sent) == len(answered) == 2 * -(-300 // 64)
    assert max(answered.values()) == 1, "what was answered is sent no more"
    assert max(sent.values()) > 1, "the kill hit no request"


def test_a_restart_with_another_model_never_mixes_tokens(
    start: Start, known: Tokens, pixels: Pixels, tmp_path: Path
) -> None:
    service = start(*SMALL)
    with Tokenizer.connect(service.url) as tokenizer, Tokenizer.connect(service.url, patience=1) as hasty:
        tokenizer.encode(pixels[:1], 1)
        service.end(signal.SIGKILL)
        with pytest.raises(UnreachableError, match=service.url):
            hasty.encode(pixels)
        start(*SMALL, "--model", str(other_model(tmp_path / "other")), port=service.port)
        for use in (
            lambda: tokenizer.encode(pixels[:1], 1),
            lambda: tokenizer.decode(known[:1]),
            tokenizer.codebook,
            tokenizer.info,
        ):
            with pytest.raises(ModelChangedError, match="do not mix"):
                use()
    with Tokenizer.connect(service.url) as anew:
        assert anew.encode(pixels[:1], 1).shape == (1, 1)


def other_model(folder: Path) -> Path:
    """The bundle with another codebook, whose tokens therefore mean something else."""
    shutil.copytree(BUNDLE, folder)
    codebook = np.load(folder / "codebook.npy")
    codebook[0] = -codebook[0]
    np.save(folder / "codebook.npy", codebook)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["codebook.npy"] = hashlib.sha256((folder / "codebook.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
