"""What is asked and answered, as models: the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, Field

from resnet_jax.runs.predict import Prediction


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassAnswer(_Model):
    """A class, label or target, and what the network says of it."""

    name: str
    probability: float | None = Field(
        None, description="of classes and labels; the score of a box; of segmentation the share of the pixels"
    )
    value: float | None = Field(None, description="of a target, in its unit")
    box: list[float] | None = Field(None, description="top, left, bottom, right, in pixels of the image as it was sent")


class Error(_Model):
    """Why a request, or one of its images, was not answered."""

    status: int
    code: str
    message: str


class ImageAnswer(_Model):
    """What the network says of one image: of classification the likeliest classes, likeliest first."""

    name: str = Field(description="of the file in a form; else the position, counted from 0")
    classes: list[ClassAnswer]
    mask: str | None = Field(
        None,
        description="of segmentation, if asked for with mask=1: data: URL of a grey PNG whose values are the classes "
        "of the pixels, by their position in /info's classes, at the sides of preprocessing",
    )
    error: Error | None = Field(None, description="why this image was not answered")


class Answer(_Model):
    """An answer for each image, in their order."""

    images: list[ImageAnswer]
    network: str
    digest: str = Field(description="sha256 of the network's parameters")


class Failure(_Model):
    """Nothing was answered; of images, each with its own error."""

    error: Error
    images: list[ImageAnswer] | None = None


class Explanation(_Model):
    """What the network says of one image, and where in it."""

    image: ImageAnswer
    explained: str | None = Field(None, description="the class that the picture is of, if it is of one")
    method: str
    caption: str = Field(description="what the picture shows")
    colours: dict[str, str] | None = Field(None, description="class -> its colour, #rrggbb, where classes have one")
    picture: str = Field(description="data: URL of a PNG: the image as the network sees it, with map, classes or boxes")
    seen: str = Field(description="data: URL of a PNG: the image as the network sees it")


Pixels = list[list[list[float]]] | list[list[float]]


class PixelRequest(_Model):
    """Images as JSON."""

    images: Annotated[
        list[Annotated[str, Field(description="a JPEG or PNG file in base64")] | Pixels], annotated_types.MinLen(1)
    ] = Field(description="pixels (height, width, channels), of grey ones also (height, width); or files in base64")
    top: Annotated[int, annotated_types.Ge(1)] | None = Field(None, description="classes of an answer")


class Health(_Model):
    """Whether the server answers images."""

    status: Literal["ready", "warming", "stopping"]


class Info(_Model):
    """What is served."""

    network: str
    task: str
    step: int | None = None
    digest: str
    licence: str | None = None
    classes: list[str]
    preprocessing: dict[str, Any]
    runtime: str
    batch_sizes: list[int]
    limits: dict[str, float]
    explains: bool = Field(description="whether POST /explain answers")
    drift: bool = Field(description="whether /metrics has the drift of the images")
    version: str


def answers_of(prediction: Prediction) -> list[ClassAnswer]:
    """Return the answers of one image."""
    classes, boxes = prediction.classes, prediction.boxes
    if prediction.values:
        return [ClassAnswer(name=n, value=float(v)) for n, v in zip(classes, prediction.values, strict=True)]  # pyright: ignore[reportCallIssue]
    found = zip(classes, prediction.probabilities, boxes or (None,) * len(classes), strict=True)
    return [
        ClassAnswer(name=name, probability=float(p), box=None if box is None else list(box))  # pyright: ignore[reportCallIssue]
        for name, p, box in found
    ]
