"""Published tokenizers, TiTok's and NativeTok's own: PyTorch modules, their checkpoints, and bundles made of them."""
