"""A PyTorch dataset of token sequences: a running service tokenizes a folder of photos once.

python examples/generator/dataset.py PHOTOS --length 32
"""

import argparse
import io
import json
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff"}


class TokenDataset(Dataset[Tensor]):
    """The tokens int64 [length] of each photo in a folder, ordered by file name.

    Tokens are cached in `cache` by the model's digest, so photos are tokenized again only for another model.
    """

    def __init__(self, folder: Path, length: int, cache: Path, url: str = "http://localhost:8080", batch: int = 64):
        """Tokenize the folder's photos, `batch` per request.

        Raises FileNotFoundError if the folder has no photos, and RuntimeError with the service's message if it refuses
        a request or if the cache does not match the folder.
        """
        photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not photos:
            raise FileNotFoundError(f"no photos in {folder}")
        with urllib.request.urlopen(f"{url}/info") as answer:
            self.model: str = json.load(answer)["model"]
        file = cache / f"{folder.name}-{length}-{self.model[:16]}.npy"
        if not file.exists():
            batches = [photos[i : i + batch] for i in range(0, len(photos), batch)]
            tokens = np.concatenate([encode(url, part, length) for part in batches])
            cache.mkdir(parents=True, exist_ok=True)
            np.save(file, tokens)
        self.tokens = torch.from_numpy(np.load(file).astype(np.int64))
        if len(self.tokens) != len(photos):
            raise RuntimeError(f"{file} has tokens of {len(self.tokens)} photos, {folder} has {len(photos)}: delete it")

    def __len__(self) -> int:
        """The number of photos."""
        return len(self.tokens)

    def __getitem__(self, i: int) -> Tensor:
        """The tokens of a photo."""
        return self.tokens[i]


def encode(url: str, photos: list[Path], length: int) -> np.ndarray:
    """Tokenize photo files with the service: uint16 [N, length]."""
    boundary = uuid.uuid4().hex
    body = io.BytesIO()
    for photo in photos:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="photo"\r\n\r\n'
        body.write(head.encode() + photo.read_bytes() + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/x-npy"}
    request = urllib.request.Request(f"{url}/encode?length={length}", body.getvalue(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return np.load(io.BytesIO(answer.read()))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"request that starts with {photos[0]}: {json.load(error)['detail']}") from None


def main() -> None:
    """Run the command line: tokenize a folder and show a batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of photos")
    parser.add_argument("--length", type=int, default=32, help="tokens per photo (default 32)")
    parser.add_argument("--cache", type=Path, default=Path("tokens"), help="folder for cached tokens (default tokens)")
    parser.add_argument("--url", default="http://localhost:8080", help="URL of the service (default %(default)s)")
    options = parser.parse_args()

    data = TokenDataset(options.folder, options.length, options.cache, options.url)
    batch = next(iter(DataLoader(data, batch_size=min(8, len(data)), shuffle=True)))
    print(f"{len(data)} photos, tokens of model {data.model[:16]}; a batch is {list(batch.shape)} {batch.dtype}:")
    print(batch[:2])


if __name__ == "__main__":
    main()
