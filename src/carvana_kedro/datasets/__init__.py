"""Kedro datasets: thin adapters between the catalog and the stores."""

from .competition import ArchivesDataset, SampleDataset
from .figure import FigureDataset
from .handles import (
    CheckpointsDataset,
    FolderDataset,
    PixelCacheDataset,
    PredictedImagesDataset,
    PredictionShardsDataset,
)
from .image import ImageDataset
from .image_folder import ImageFolderDataset
from .kaggle import KaggleCompetitionDataset, KaggleDataset
from .model import ModelDataset
from .record import RecordDataset
from .source_description import SourceDescriptionDataset
from .submission import ReceiptDataset, SubmissionDataset
from .table import TableDataset
from .text import HTMLDataset, TextDataset

__all__ = [
    "ArchivesDataset",
    "CheckpointsDataset",
    "FigureDataset",
    "FolderDataset",
    "HTMLDataset",
    "ImageDataset",
    "ImageFolderDataset",
    "KaggleCompetitionDataset",
    "KaggleDataset",
    "ModelDataset",
    "PixelCacheDataset",
    "PredictedImagesDataset",
    "PredictionShardsDataset",
    "ReceiptDataset",
    "RecordDataset",
    "SampleDataset",
    "SourceDescriptionDataset",
    "SubmissionDataset",
    "TableDataset",
    "TextDataset",
]
