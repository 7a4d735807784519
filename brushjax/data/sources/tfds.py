"""BrushData written through tensorflow-datasets, without TensorFlow.

`BrushDataset` is a builder that any tensorflow-datasets tool can use. What it writes is in the
array_record format, which `tfds_reader` reads.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from brushjax.data.faults import Fault, FaultLog
from brushjax.data.sources.captions import decoded
from brushjax.data.sources.collection import Collection, open_collection
from brushjax.data.sources.tfds_reader import OPTIONAL

TEXTS = ("caption", "height", "width", "segmentation")


class BrushDataset(tfds.core.GeneratorBasedBuilder):
    """Captioned pictures with annotated objects, from tars or any other collection.

    Args:
      source: path of the collection, as `brushjax.data.sets.brushdata.BrushData.path`.
      data_dir: where tensorflow-datasets keeps what it writes.

    Then `download_and_prepare(file_format="array_record")` writes it. Samples without picture or
    caption are left out, and said so in the log.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: str = "", **settings: Any):
        self._source = source
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in TEXTS}
        features = {"image": tfds.features.Image(shape=(None, None, 3)), **texts}
        return self.dataset_info_from_configs(
            description="Pictures with captions and objects as run lengths, in BrushData's terms.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # what is read lies there already
        return {"train": self._generate_examples(open_collection(self._source))}

    def _generate_examples(self, collection: Collection) -> Iterator[tuple[int, dict[str, Any]]]:
        log = FaultLog()
        for n in range(len(collection)):
            try:
                members = collection.read(n, ("image", "caption"), OPTIONAL)
                texts = {name: decoded(members.get(name, b""))[0] for name in TEXTS}
            except Fault as fault:
                log(fault.cause, collection.name(n), str(fault))
                continue
            except ValueError as error:
                log("bad caption", collection.name(n), str(error))
                continue
            # As a file: arrays would have to be encoded again, and that takes TensorFlow.
            yield n, {"image": io.BytesIO(members["image"]), **texts}
