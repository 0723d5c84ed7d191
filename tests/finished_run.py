"""What a finished run leaves, for several tests: two epochs, and the scores of two cars."""

import pandas as pd

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "train_loss": [1.0, 0.5],
        "val_loss": [1.1, 0.6],
        "train_dice_coeff": [0.5, 0.8],
        "val_dice_coeff": [0.4, 0.7],
        "seconds": [3.0, 5.0],
    }
)
SCORES = pd.DataFrame(
    {
        "image": ["c_1", "c_2", "d_1", "d_2"],
        "car": ["c", "c", "d", "d"],
        "dice": [0.8, 0.9, 0.95, 0.97],
        "iou": [0.7, 0.8, 0.9, 0.95],
        "pixel_accuracy": [0.9, 0.95, 0.97, 0.98],
        "boundary_dice": [0.5, 0.6, 0.7, 0.8],
        "boundary_error": [4.0, 3.0, 2.0, 1.0],
    }
)
CURVE = pd.DataFrame({"threshold": [0.4, 0.5, 0.6], "dice": [0.88, 0.905, 0.91]})
