"""A face that the finder does not know, drawn with a few strokes."""

from __future__ import annotations

import cv2
import numpy as np

BOX = (80.0, 40.0, 160.0, 200.0)  # x, y, width, height of the face


def frog() -> np.ndarray:
    """(300, 320, 3) uint8 RGB: an ellipse with a mouth, and the eyes on top of it."""
    picture = np.full((300, 320, 3), (30, 30, 60), np.uint8)
    skin, ink, white = (60, 60, 160), (230, 230, 90), (255, 255, 255)
    cv2.ellipse(picture, (160, 140), (80, 100), 0, 0, 360, skin, -1, cv2.LINE_AA)
    cv2.ellipse(picture, (160, 140), (80, 100), 0, 0, 360, ink, 3, cv2.LINE_AA)
    for x in (125, 195):
        cv2.circle(picture, (x, 45), 28, white, -1, cv2.LINE_AA)
        cv2.circle(picture, (x, 45), 28, ink, 3, cv2.LINE_AA)
        cv2.circle(picture, (x, 45), 8, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (160, 188), (32, 9), 0, 0, 360, (190, 70, 70), -1, cv2.LINE_AA)
    cv2.line(picture, (128, 188), (192, 188), ink, 2, cv2.LINE_AA)
    return picture
