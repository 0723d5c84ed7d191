"""What watches a training run: progress, checkpoints, TensorBoard, visualization. It decides nothing."""
