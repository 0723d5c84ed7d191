"""What a run has achieved, in numbers and sentences: for the model card and for web pages."""
