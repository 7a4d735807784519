"""Small collections in BrushData's layout."""

import io
import json
import tarfile

import cv2
import numpy as np

from brushjax.data.masks import rle
from brushjax.data.schema import Captioned


def tokenize(captions):
    """Lengths and first letters: enough to tell captions apart."""
    rows = [[len(text), *text.encode()[:3], 0, 0, 0][:4] for text in captions]
    return np.array(rows, np.int32).reshape(len(captions), 4)


encode = Captioned(tokenize)


def picture(n, height=40, width=56):
    """A smooth picture whose mean colour tells its number."""
    y, x = np.mgrid[:height, :width]
    channels = [(n * 7) % 256 + 0 * x, 255 * x // width, 255 * y // height]
    return np.stack(channels, axis=-1).astype(np.uint8)


def png(image):
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def jpeg(image):
    return cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()


def object_masks(height=40, width=56):
    """A disc on the left, and a box at the lower right."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(y - height / 2, x - width / 3) < height / 4
    box = (y > height * 0.7) & (x > width * 0.7)
    return [disc, box]


def segmentation(masks):
    runs = [rle.encode(mask, first=1, order="column") for mask in masks]
    return json.dumps({"mask": runs}).encode()


def members(n, **changed):
    """The members of sample n; a member that is changed to None is left out."""
    found = {
        "image": jpeg(picture(n)),
        "caption": f"picture {n}".encode(),
        "height": b"40",
        "width": b"56",
        "segmentation": segmentation(object_masks()),
        **changed,
    }
    return {name: data for name, data in found.items() if data is not None}


def write_tar(path, samples):
    """Writes {key: members} as a tar."""
    with tarfile.open(path, "w") as tar:
        for key, found in samples.items():
            for name, data in found.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_tars(folder, counts):
    """Writes tars of so many samples each, numbered through."""
    start = 0
    for tar, count in enumerate(counts):
        samples = {f"{n:06d}": members(n) for n in range(start, start + count)}
        write_tar(folder / f"{tar:05d}.tar", samples)
        start += count
    return folder
