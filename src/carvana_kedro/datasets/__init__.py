"""What a catalog entry is: thin adapters between Kedro's catalog and the stores."""

from .competition import ArchivesDataset, SampleDataset
from .handles import CheckpointsDataset, FolderDataset, PredictionShardsDataset
from .model import ModelDataset
from .picture import PictureDataset
from .record import RecordDataset
from .submission import SubmissionDataset
from .table import TableDataset

__all__ = [
    "ArchivesDataset",
    "CheckpointsDataset",
    "FolderDataset",
    "ModelDataset",
    "PictureDataset",
    "PredictionShardsDataset",
    "RecordDataset",
    "SampleDataset",
    "SubmissionDataset",
    "TableDataset",
]
