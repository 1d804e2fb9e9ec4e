"""Training of the denoising networks. Importing this package loads neither torch nor slicer."""
