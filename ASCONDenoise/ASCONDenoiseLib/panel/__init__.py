"""The parts of the panel, which know Qt: only ASCONDenoise.py imports them."""
