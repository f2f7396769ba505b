"""NativeTok (arXiv 2601.22837): an image tokenizer with ordered tokens."""
