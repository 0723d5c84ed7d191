"""Kedro datasets: thin adapters between the catalog and the stores."""

from .competition import ArchivesDataset, SampleDataset
from .figure import CurveDataset, FigureDataset
from .handles import (
    CheckpointsDataset,
    EditableMasksDataset,
    FolderDataset,
    PixelCacheDataset,
    PredictedImagesDataset,
    PredictionShardsDataset,
)
from .image_folder import ImageFolderDataset
from .kaggle import KaggleCompetitionDataset, KaggleDataset
from .model import ModelDataset
from .pictures import AnimationDataset, ImageDataset, PicturesDataset
from .record import RecordDataset
from .source_description import SourceDescriptionDataset
from .submission import ReceiptDataset, SubmissionDataset
from .table import TableDataset
from .text import HTMLDataset, MarkdownDataset, TextDataset

__all__ = [
    "AnimationDataset",
    "ArchivesDataset",
    "CheckpointsDataset",
    "CurveDataset",
    "EditableMasksDataset",
    "FigureDataset",
    "FolderDataset",
    "HTMLDataset",
    "ImageDataset",
    "ImageFolderDataset",
    "KaggleCompetitionDataset",
    "KaggleDataset",
    "MarkdownDataset",
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
