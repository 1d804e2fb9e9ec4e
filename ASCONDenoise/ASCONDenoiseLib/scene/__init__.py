"""Nodes of Slicer's scene, without Qt: everything here takes nodes or a scene, never the application's own scene.

Only this folder and panel/ import slicer.
"""
