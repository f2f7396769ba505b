"""Tokenizes a folder of images on a Ray cluster: Parquet with a row for each view. Run again, it goes on.

python ray_tokenize.py PHOTOS --out TOKENS --tokenizer models/nativetok-128 --crops ten

Sub-folders of PHOTOS are classes, numbered in the order of their names. Every node must see PHOTOS, TOKENS and the
bundle under the same path, and have nativetok_client[ray] installed. docs/ray.md says more.
"""

import argparse
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import ray
from ray.data.checkpoint import CheckpointConfig

from nativetok_client.opener import Opener
from nativetok_client.ray import Tokenize

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff"}
ACTOR, LITTLE = 0.75, 0.125
"""CPUs that Ray sets aside for an actor, and for reading or writing a shard. With one actor less than there are CPUs,
enough remain for the whole one that Ray Data wants to go on after an interruption; else the job would wait for ever."""


def main() -> int:
    """Run the command line. Returns 0, or 3 where images failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for data/ and checkpoint/")
    parser.add_argument("--tokenizer", required=True, help="a bundle's folder, or the address of a service")
    parser.add_argument("--crops", choices=["centre", "ten"], default="centre")
    parser.add_argument("--flip", action="store_true", help="the mirrored view as well")
    parser.add_argument("--length", type=int, help="tokens a view (default: the whole sequence)")
    parser.add_argument("--actors", type=int, help="default, and at most: one for each CPU of the cluster but one")
    parser.add_argument("--shard", type=int, default=1024, help="images that are written, or done again, together")
    options = parser.parse_args()

    photos, out = options.photos.resolve(), options.out.resolve()
    classes = sorted(entry.name for entry in photos.iterdir() if entry.is_dir())
    # Of a folder, Ray Data would leave out what begins with an underscore, as cameras name some files.
    found = (path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    paths = sorted(map(str, found))
    if not paths:
        parser.error(f"there is no image in {photos}")
    with Opener(options.tokenizer, None).open(1) as tokenizer:
        info = tokenizer.info()
    settings = {"length": info.check_length(options.length), "crops": options.crops, "flip": options.flip}
    remember(out / "tokens.json", {"model": info.model, "photos": str(photos), "classes": classes, **settings})

    ray.init()
    most = int(ray.cluster_resources()["CPU"]) - 1
    if not 1 <= (options.actors or most) <= most:
        parser.error(f"--actors must be from 1 to {most}: one CPU is for reading and writing")
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="path", checkpoint_path=str(out / "checkpoint"), delete_checkpoint_on_success=False
    )
    # A block that is cut may part the views of an image; the image counts as done when the first of them are written.
    context.target_max_block_size = None
    shards = -(-len(paths) // options.shard)
    images = ray.data.read_binary_files(paths, include_paths=True, override_num_blocks=shards, num_cpus=LITTLE)
    tokens = images.map_batches(
        Tokenize,
        fn_constructor_args=[options.tokenizer],
        fn_constructor_kwargs={"model": info.model, **settings},
        batch_format="pyarrow",
        num_cpus=ACTOR,
        compute=ray.data.ActorPoolStrategy(size=options.actors or most),
    )
    named = tokens.map_batches(name, fn_args=[photos, classes], batch_format="pyarrow", num_cpus=LITTLE)
    named.write_parquet(str(out / "data"), partition_cols=["failed"], ray_remote_args={"num_cpus": LITTLE})

    written = pa.dataset.dataset(out / "data", partitioning="hive")
    failed = written.count_rows(filter=pc.field("failed") == "true")
    print(f"{written.count_rows() - failed} rows, {failed} images failed, in {out / 'data'}")
    return 3 if failed else 0


def name(rows: pa.Table, photos: Path, classes: list[str]) -> pa.Table:
    """Adds what a training loop asks for, the `key` and the `label` of an image, and whether it `failed`."""
    paths = [Path(path).relative_to(photos) for path in rows["path"].to_pylist()]
    labels = [classes.index(path.parts[0]) if len(path.parts) > 1 else None for path in paths]
    rows = rows.append_column("key", pa.array([path.with_suffix("").as_posix() for path in paths], pa.string()))
    rows = rows.append_column("label", pa.array(labels, pa.int64()))
    return rows.append_column("failed", pc.is_valid(rows["error"]))


def remember(file: Path, job: dict[str, object]) -> None:
    """Writes down what the tokens are, so that tokens of two kinds are never mixed in a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(json.dumps(job, indent=2) + "\n")
    elif json.loads(file.read_text()) != job:
        raise SystemExit(f"{file} is of another job; give another folder, or the same photos, tokenizer and views")


if __name__ == "__main__":
    sys.exit(main())
