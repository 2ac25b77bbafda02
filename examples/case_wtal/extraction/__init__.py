"""Snippet features of videos, in the form the field uses: I3D on RGB and optical flow, 16 frames at 25 a second.

Needs the optional dependencies `video` (PyAV and OpenCV) and weights that the user brings.
"""
