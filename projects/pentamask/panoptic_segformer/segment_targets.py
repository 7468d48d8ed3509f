"""Training instances of Panoptic SegFormer: things and stuff alike."""

from pentamask.data.panoptic import (
    PanopticLabels,
    Segment,
    segments_from_annotations,
    segments_from_png,
    segments_to_instances,
)
from pentamask.data.pictures import read_picture
from pentamask.data.targets import AugmentedImage, TargetMaker


class SegmentTargetMaker(TargetMaker):
    """Sets "instances" of things and stuff, from either of Detectron2's two forms of panoptic datasets."""

    def __init__(self, labels: PanopticLabels) -> None:
        """Args: labels: the dataset's numbering of classes."""
        self.labels = labels

    def __call__(self, record: dict, augmented: AugmentedImage) -> None:
        """See `TargetMaker`.

        Raises:
            OSError: the file of panoptic segments is missing or corrupt.
            ValueError: it has another size than the image, or the record has neither segments nor annotations.
        """
        segments = self._read_segments(record, augmented)
        record["instances"] = segments_to_instances(segments, augmented.transforms, augmented.size)

    def _read_segments(self, record: dict, augmented: AugmentedImage) -> list[Segment]:
        size = record["height"], record["width"]
        if "pan_seg_file_name" in record:
            png = read_picture(record["pan_seg_file_name"], "RGB")
            if png.shape[:2] != size:
                raise ValueError(
                    f"{record['pan_seg_file_name']} has {png.shape[:2]} pixels, "
                    f"its image {record['file_name']} has {size}."
                )
            return segments_from_png(png, record["segments_info"], self.labels)
        if "annotations" not in record:
            raise ValueError(
                f"The record of {record['file_name']} has neither panoptic segments nor annotations: "
                "DATASETS.TRAIN must name a panoptic dataset."
            )
        return segments_from_annotations(record["annotations"], augmented.sem_seg, size, self.labels)
