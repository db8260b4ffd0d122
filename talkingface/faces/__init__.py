"""Faces: find or take them, measure landmarks, track them through video, align crops.

Importing this is cheap; the two networks are loaded when the first face is looked for.
"""

from talkingface.faces.align import Aligned, Track, align, pose, track
from talkingface.faces.covered import covered_mouth
from talkingface.faces.detect import (
    Face,
    Tracker,
    choose_face,
    choose_of,
    face_in_box,
    find_faces,
    find_quickly,
    same_face,
)
from talkingface.faces.given import Located, locate, overlay, write_landmarks
from talkingface.faces.interpolation import mesh_from_landmarks

__all__ = [
    "Aligned",
    "Face",
    "Located",
    "Track",
    "Tracker",
    "align",
    "choose_face",
    "choose_of",
    "covered_mouth",
    "face_in_box",
    "find_faces",
    "find_quickly",
    "locate",
    "mesh_from_landmarks",
    "overlay",
    "pose",
    "same_face",
    "track",
    "write_landmarks",
]
