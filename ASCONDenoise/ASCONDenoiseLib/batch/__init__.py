"""Whole archives: every CT of a tree denoised, on the cores and GPUs of this computer or of a cluster."""
