"""NativeTok (arXiv 2601.22837): an image tokenizer whose tokens come in order."""
