"""The science: networks, losses, metrics, geometry and training, on arrays and tensors, without Kedro."""
