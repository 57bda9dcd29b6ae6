"""YOLOv8 as a judge: whether a picture shows a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from engines.errors import InputError
from evaluation.packages import package

CONFIDENCE = 0.5
PERSON = 0  # its place among COCO's classes
GREY = 114  # of what surrounds a picture that is not square
EXPORT = "yolo export model=yolov8n.pt format=onnx"


def open_person(file: str) -> Callable[[np.ndarray], bool]:
    """Whether YOLOv8 finds a person with a confidence above 0.5; `file` is its ONNX file, in [1, 3, S, S], out [1, 4 + classes, N].

    Suppression of overlapping boxes is left out: it never removes the most confident box, so its IoU changes no answer.

    Raises:
        InputError: no such file, it has another shape, or onnxruntime is not installed.
    """
    onnxruntime = package("onnxruntime", "judge person", "pip install onnxruntime")
    if not file or not Path(file).is_file():
        raise InputError(f"judge person: expected person=FILE with YOLOv8 in ONNX, found no file; make one with: {EXPORT}")
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises several
        raise InputError(f"{file}: cannot be read as an ONNX file: {error}; make one with: {EXPORT}") from None
    given, answered = session.get_inputs()[0], session.get_outputs()[0]
    side = given.shape[-1]
    if len(given.shape) != 4 or not isinstance(side, int) or len(answered.shape) != 3:
        found = f"{given.shape} in and {answered.shape} out"
        raise InputError(f"{file}: expected [1, 3, S, S] in and [1, 4 + classes, N] out, found {found}; make one with: {EXPORT}")

    def shows_person(image: np.ndarray) -> bool:
        return highest_score(session.run(None, {given.name: letterbox(image, side)})[0], PERSON) > CONFIDENCE

    return shows_person


def highest_score(output: np.ndarray, kind: int) -> float:
    """The highest score of the boxes whose best class this is; `output` is [1, 4 + classes, boxes]."""
    scores = output[0, 4:]
    return float(np.where(scores.argmax(0) == kind, scores[kind], 0).max(initial=0))


def letterbox(image: np.ndarray, side: int) -> np.ndarray:
    """The picture, as large as it fits, in the middle of a grey square; float32 [1, 3, side, side], 0 to 1."""
    scale = side / max(image.shape[:2])
    height, width = (round(length * scale) for length in image.shape[:2])
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    square[top : top + height, left : left + width] = np.asarray(resized)
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / 255
