"""ASCON for low-dose CT: the network, its inference, the physics of dose, image quality, files.

Importing this package loads neither torch nor slicer; each file imports what it needs.
"""

__version__ = "0.1.0"
