"""The client against the service with its default settings."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE, FIXTURES, PHOTOS, Service
from PIL import Image

from nativetok_client import AsyncTokenizer, ItemError, ProblemError, Tokenizer, UnreachableError
from nativetok_client.items import Pixels, Tokens


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_it_says_which_model_it_has_and_what_the_service_takes(tokenizer: Tokenizer) -> None:
    info = tokenizer.info()
    assert (info.name, info.image_size, info.length, info.stages) == ("nativetok-128", 128, 128, (32, 64, 128))
    assert (info.codebook_size, info.codebook_dimension) == (4096, 12)
    assert info.limits
    assert info.limits.images == 1024
    assert info.raw["version"]


def test_paths_files_arrays_and_pillow_images_have_the_same_tokens(
    tokenizer: Tokenizer, known: Tokens, pixels: Pixels
) -> None:
    assert known.dtype == np.uint16
    assert known.shape == (len(PHOTOS), 128)
    assert len(np.unique(known, axis=0)) == len(PHOTOS), "each photo has tokens of its own"
    few = slice(0, 4)
    assert np.array_equal(tokenizer.encode(map(str, PHOTOS[few])), known[few])
    assert np.array_equal(tokenizer.encode([path.read_bytes() for path in PHOTOS[few]]), known[few])
    assert np.array_equal(tokenizer.encode(pixels[few]), known[few])
    assert np.array_equal(tokenizer.encode([Image.open(path) for path in PHOTOS[few]]), known[few])
    mixed = [pixels[0], PHOTOS[1], Image.open(PHOTOS[2]), PHOTOS[3].read_bytes()]
    assert np.array_equal(tokenizer.encode(mixed), known[few])


def test_images_of_another_size_go_as_the_service_prepares_them(tokenizer: Tokenizer) -> None:
    path = FIXTURES / "formats" / "cat.png"
    expected = tokenizer.encode([path])
    assert np.array_equal(tokenizer.encode(np.asarray(Image.open(path).convert("RGB"))), expected)
    assert np.array_equal(tokenizer.encode(Image.open(path)), expected)
    turned = FIXTURES / "formats" / "orientation-6.jpg"
    wide_gamut = FIXTURES / "formats" / "display-p3.jpg"
    for file in (turned, wide_gamut, FIXTURES / "formats" / "alpha.png"):
        # Pillow's pixels of a JPEG are not exactly libvips', so the tokens are compared by what they show.
        ours, theirs = tokenizer.decode(tokenizer.encode([Image.open(file), file])).astype(int)
        assert np.mean((ours - theirs) ** 2) < 65, f"{file.name}: more apart than 30 dB"


def test_one_image_or_row_counts_as_a_list_of_one(tokenizer: Tokenizer, known: Tokens, pixels: Pixels) -> None:
    for image in (PHOTOS[0], str(PHOTOS[0]), PHOTOS[0].read_bytes(), pixels[0], Image.open(PHOTOS[0])):
        assert np.array_equal(tokenizer.encode(image), known[:1])
    expected = tokenizer.decode(known[:1])
    assert expected.shape == (1, 128, 128, 3)
    assert np.array_equal(tokenizer.decode(known[0]), expected)
    assert np.array_equal(tokenizer.decode(known[0].tolist()), expected)


def test_no_images_are_no_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([], 32).shape == (0, 32)
    assert tokenizer.decode([]).shape == (0, 128, 128, 3)


def test_a_shorter_encoding_is_a_prefix(tokenizer: Tokenizer, known: Tokens) -> None:
    assert np.array_equal(tokenizer.encode(PHOTOS, 17), known[:, :17])
    for length in (0, 129):
        with pytest.raises(ValueError, match=f"length is {length}; it must be 1 to 128"):
            tokenizer.encode(PHOTOS, length)


def test_rows_may_differ_in_length_and_come_back_in_order(tokenizer: Tokenizer, known: Tokens) -> None:
    ragged = [row[: 1 + 3 * i] for i, row in enumerate(known)]
    images = tokenizer.decode(ragged)
    assert images.dtype == np.uint8
    for i in (0, 7, 20, 35):
        assert np.array_equal(images[i], tokenizer.decode(ragged[i])[0])
    assert np.array_equal(tokenizer.decode([row.tolist() for row in ragged]), images)
    assert np.array_equal(tokenizer.decode(known.astype(np.int64)), tokenizer.decode(known))


def test_the_codebook_is_the_bundle_s(tokenizer: Tokenizer) -> None:
    assert np.array_equal(tokenizer.codebook(), np.load(BUNDLE / "codebook.npy"))


@pytest.mark.parametrize(
    ("name", "status", "type"), [("truncated.jpg", 422, "undecodable-image"), ("drawing.svg", 415, "unsupported-type")]
)
def test_a_wrong_image_in_the_middle_of_a_list_is_named(
    tokenizer: Tokenizer, name: str, status: int, type: str
) -> None:
    images = PHOTOS * 4
    images[100] = FIXTURES / "formats" / name
    with pytest.raises(ProblemError) as caught:
        tokenizer.encode(images, 1)
    error = caught.value
    assert (error.item, error.status, error.type) == (100, status, f"urn:nativetok:problem:{type}")
    assert error.problem["item"] == 100 - 64, "the problem document counts within its request"
    assert error.problem["requestId"]
    assert "(item 100 of the list)" in str(error)


def test_the_first_wrong_image_of_several_is_the_one_that_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    images: list[object] = [*PHOTOS * 4]
    images[70] = FIXTURES / "formats" / "truncated.jpg"
    images[130] = tmp_path / "missing.png"
    with pytest.raises(ProblemError) as caught:
        tokenizer.encode(images, 1)  # type: ignore[arg-type]
    assert caught.value.item == 70


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Path("missing.png"), r"image 90 cannot be read: .*missing\.png"),
        (np.zeros((128, 128, 3), np.float32), r"image 90 must be uint8 \[H, W, 3\], not float32 \[128, 128, 3\]"),
        (np.zeros((128, 128), np.uint8), r"image 90 must be uint8 \[H, W, 3\], not uint8 \[128, 128\]"),
        (90, "image 90 must be a path, bytes, a NumPy array or a Pillow image, not int"),
    ],
)
def test_what_is_no_image_is_named_without_asking_the_service(
    tokenizer: Tokenizer, image: object, message: str
) -> None:
    images: list[object] = [*PHOTOS * 3]
    images[90] = image
    with pytest.raises(ItemError, match=message) as caught:
        tokenizer.encode(images, 1)  # type: ignore[arg-type]
    assert caught.value.item == 90


def test_a_wrong_token_is_named_by_row_and_position(tokenizer: Tokenizer, known: Tokens) -> None:
    rows = np.concatenate([known, known, known]).astype(np.int64)
    rows[101, 5] = 4096
    with pytest.raises(ProblemError) as caught:
        tokenizer.decode(rows)
    assert (caught.value.item, caught.value.position, caught.value.status) == (101, 5, 422)
    for wrong in (-1, 2**40):
        rows[101, 5] = wrong
        with pytest.raises(ProblemError) as caught:
            tokenizer.decode(rows)
        assert (caught.value.item, caught.value.position) == (101, 5)
    with pytest.raises(ProblemError, match="has 0 tokens") as caught:
        tokenizer.decode([*known, [], *known])
    assert caught.value.item == len(known)
    with pytest.raises(ItemError, match=r"row 2 must be integers") as wrong_type:
        tokenizer.decode([known[0], known[1], known[2] * 0.5])
    assert wrong_type.value.item == 2


def test_100_000_tokens_come_in_order(tokenizer: Tokenizer, known: Tokens, pixels: Pixels) -> None:
    which = np.random.default_rng(0).integers(0, len(PHOTOS), 782)
    tokens = tokenizer.encode(pixels[i] for i in which)
    assert tokens.size > 100_000
    assert np.array_equal(tokens, known[which])


def test_a_stream_takes_only_a_little_ahead(tokenizer: Tokenizer, known: Tokens) -> None:
    taken = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            yield PHOTOS[taken % len(PHOTOS)]
            taken += 1

    got: list[Tokens] = []
    for tokens in tokenizer.encode_stream(endless(), 2):
        got.append(tokens)
        if len(got) == 3:
            break
    rows = np.concatenate(got)
    assert np.array_equal(rows, known[np.arange(len(rows)) % len(known), :2])
    assert taken <= 64 * (3 + 9), "it read further ahead than requests go"


def test_nobody_there_is_an_error_at_once(free_port: int) -> None:
    before = time.monotonic()
    with pytest.raises(UnreachableError, match=f"http://127.0.0.1:{free_port} cannot be reached"):
        Tokenizer.connect(f"http://127.0.0.1:{free_port}")
    assert time.monotonic() - before < 5


def test_a_progress_bar_counts_the_images(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer.encode(PHOTOS, 1, progress=True)
    assert f"{len(PHOTOS)}/{len(PHOTOS)}" in capsys.readouterr().err
    tokenizer.encode(PHOTOS, 1)
    assert capsys.readouterr().err == "", "no bar where there is no terminal"


def test_threads_may_share_it(tokenizer: Tokenizer, known: Tokens) -> None:
    results: dict[int, Tokens] = {}

    def encode(i: int) -> None:
        results[i] = tokenizer.encode(PHOTOS[i:], 4)

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, tokens in results.items():
        assert np.array_equal(tokens, known[i:, :4])
    assert len(results) == 6


def test_a_closed_one_says_so(service: Service) -> None:
    with Tokenizer.connect(service.url) as tokenizer:
        stream = tokenizer.encode_stream(PHOTOS * 10, 1)
        next(stream)
    with pytest.raises(RuntimeError, match="closed"):
        tokenizer.encode(PHOTOS)
    tokenizer.close()


def test_a_process_cannot_use_the_one_of_another(tokenizer: Tokenizer) -> None:
    child = os.fork()
    if child == 0:
        try:
            tokenizer.info()
        except RuntimeError as error:
            os._exit(0 if "another process" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_ctrl_c_ends_the_requests_and_the_tokenizer_lives_on(
    service: Service, tokenizer: Tokenizer, known: Tokens, pixels: Pixels
) -> None:
    before = service.metric("nativetok_errors_total", kind="client-gone")
    # A shell has what it runs in the background ignore the signal.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode(np.tile(pixels, (60, 1, 1, 1)))
    signal.signal(signal.SIGINT, ignored)
    until(lambda: service.metric("nativetok_errors_total", kind="client-gone") > before)
    until(lambda: service.metric("nativetok_queue_depth") == 0)
    assert np.array_equal(tokenizer.encode(pixels[:3]), known[:3])


def test_cancelling_closes_the_connections(service: Service, known: Tokens, pixels: Pixels) -> None:
    before = service.metric("nativetok_errors_total", kind="client-gone")

    async def cancel() -> None:
        async with await AsyncTokenizer.connect(service.url) as tokenizer:
            encoding = asyncio.create_task(tokenizer.encode(np.tile(pixels, (60, 1, 1, 1))))
            await asyncio.sleep(0.7)
            encoding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await encoding
            assert np.array_equal(await tokenizer.encode(pixels[:3]), known[:3])

    asyncio.run(cancel())
    until(lambda: service.metric("nativetok_errors_total", kind="client-gone") > before)


def test_the_asynchronous_one_does_the_same(service: Service, known: Tokens) -> None:
    async def all_of_it() -> None:
        async with await AsyncTokenizer.connect(service.url) as tokenizer:
            many, few, info = await asyncio.gather(
                tokenizer.encode(PHOTOS * 5), tokenizer.encode(PHOTOS[3], 2), tokenizer.info()
            )
            assert np.array_equal(many, np.tile(known, (5, 1)))
            assert np.array_equal(few, known[3:4, :2])
            assert info == tokenizer.known
            images = await tokenizer.decode([row[: 1 + i] for i, row in enumerate(known)])
            assert images.shape == (len(known), 128, 128, 3)
            assert (await tokenizer.codebook()).shape == (4096, 12)
            wrong = [*PHOTOS * 2, FIXTURES / "formats" / "text.txt"]
            with pytest.raises(ProblemError) as caught:
                await tokenizer.encode(wrong)
            assert caught.value.item == len(wrong) - 1

    asyncio.run(all_of_it())
