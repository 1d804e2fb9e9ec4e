"""Denoising networks, one per file. Each maps (B, 1, H, W) in unit range to the same shape."""
