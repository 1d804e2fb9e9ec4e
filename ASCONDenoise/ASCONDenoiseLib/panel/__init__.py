"""The parts of the panel that need Slicer itself: only ASCONDenoise.py imports them."""
