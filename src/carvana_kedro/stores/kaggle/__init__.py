"""Access to Kaggle: credentials, downloads, submissions."""
