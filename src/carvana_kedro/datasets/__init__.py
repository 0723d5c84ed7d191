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
from .image import AnimationDataset, ImageDataset
from .image_folder import ImageFolderDataset
from .kaggle import KaggleCompetitionDataset, KaggleDataset
from .model import ModelDataset
from .pictures import PicturesDataset
from .record import RecordDataset
from .source_description import SourceDescriptionDataset
from .submission import ReceiptDataset, SubmissionDataset
from .table import TableDataset
from .text import HTMLDataset, TextDataset

__all__ = [
    "AnimationDataset",
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
    "PicturesDataset",
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
