"""The prediction of shards: what is done for each, and who does it. It does not import Kedro."""
