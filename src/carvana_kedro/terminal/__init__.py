"""What `kedro run` prints."""
