"""Fashion-MNIST as numpy arrays, read from the gzip IDX files of the Debian package."""

import gzip
from pathlib import Path

import numpy as np

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_FILE = Path(__file__).parent / "images.npz"
SAMPLE_SIZE = 256

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class DatasetMissingError(FileNotFoundError):
    """Fashion-MNIST is not where it was looked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"Fashion-MNIST file {path} does not exist. Install the Debian package that holds it, "
            "`sudo apt install dataset-fashion-mnist`, or name the folder with the four "
            "*-ubyte.gz files by --data."
        )


def read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed IDX file of unsigned bytes."""
    if not path.is_file():
        raise DatasetMissingError(path)
    with gzip.open(path) as file:
        content = file.read()
    kind, rank = content[2], content[3]
    if content[:2] != b"\0\0" or kind != 0x08:
        raise ValueError(f"{path} must be an IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", rank, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def load_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28) and labels (count,) as uint8; `split` is "train" or "t10k"."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return images, labels


def load_sample() -> tuple[np.ndarray, np.ndarray]:
    """The first 256 test images and labels, which are kept beside this file."""
    with np.load(SAMPLE_FILE) as sample:
        return sample["images"], sample["labels"]


def save_sample(folder: Path, path: Path = SAMPLE_FILE) -> None:
    """Write the first 256 test images and labels to `path`."""
    images, labels = load_split(folder, "t10k")
    np.savez_compressed(path, images=images[:SAMPLE_SIZE], labels=labels[:SAMPLE_SIZE])
