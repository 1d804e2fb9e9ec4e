"""Training objectives, one per file: what one step does. Importing this package loads no torch."""
