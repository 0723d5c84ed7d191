"""What a person corrects."""
