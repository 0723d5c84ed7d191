"""What a catalog entry is: thin adapters between Kedro's catalog and the stores."""

from .competition import ArchivesDataset, SampleDataset
from .handles import (
    CheckpointsDataset,
    FolderDataset,
    PixelCacheDataset,
    PredictedPicturesDataset,
    PredictionShardsDataset,
)
from .image_folder import ImageFolderDataset
from .kaggle import KaggleCompetitionDataset, KaggleDataset
from .model import ModelDataset
from .picture import PictureDataset
from .record import RecordDataset
from .submission import ReceiptDataset, SubmissionDataset
from .table import TableDataset
from .text import TextDataset

__all__ = [
    "ArchivesDataset",
    "CheckpointsDataset",
    "FolderDataset",
    "ImageFolderDataset",
    "KaggleCompetitionDataset",
    "KaggleDataset",
    "ModelDataset",
    "PictureDataset",
    "PixelCacheDataset",
    "PredictedPicturesDataset",
    "PredictionShardsDataset",
    "ReceiptDataset",
    "RecordDataset",
    "SampleDataset",
    "SubmissionDataset",
    "TableDataset",
    "TextDataset",
]
