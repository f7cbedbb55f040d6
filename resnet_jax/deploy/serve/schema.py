"""Models of requests and answers, from which the OpenAPI document is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, Field

from resnet_jax.runs.predict import Prediction


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassAnswer(_Model):
    """The prediction for one class, label or target."""

    name: str
    probability: float | None = Field(
        None, description="probability of a class or label; score of a box; for segmentation the share of the pixels"
    )
    value: float | None = Field(None, description="value of a target, in its unit")
    box: list[float] | None = Field(None, description="top, left, bottom, right, in pixels of the image as it was sent")


class Error(_Model):
    """The reason why a request, or one of its images, was not answered."""

    status: int
    code: str
    message: str


class ImageAnswer(_Model):
    """The prediction for one image; for classification, the most likely classes first."""

    name: str = Field(description="name of the file in a form; otherwise its position, counted from 0")
    classes: list[ClassAnswer]
    mask: str | None = Field(
        None,
        description="for segmentation with mask=1: data: URL of a grayscale PNG whose values are the classes of the "
        "pixels, as positions in the classes of /info, at the size given by its preprocessing",
    )
    error: Error | None = Field(None, description="why this image was not answered")


class Answer(_Model):
    """The predictions for all images, in their order."""

    images: list[ImageAnswer]
    network: str
    digest: str = Field(description="SHA-256 of the network's parameters")


class Failure(_Model):
    """Nothing was answered; if there were images, each has its own error."""

    error: Error
    images: list[ImageAnswer] | None = None


class Explanation(_Model):
    """The prediction for one image, and a picture of where in the image it comes from."""

    image: ImageAnswer
    explained: str | None = Field(None, description="the class that the picture explains, if it explains one")
    method: str
    caption: str = Field(description="what the picture shows")
    colours: dict[str, str] | None = Field(None, description="class -> its color, #rrggbb, if classes have colors")
    picture: str = Field(description="data: URL of a PNG: the image as the network sees it, with map, classes or boxes")
    seen: str = Field(description="data: URL of a PNG: the image as the network sees it")


Pixels = list[list[list[float]]] | list[list[float]]


class PixelRequest(_Model):
    """Images as JSON."""

    images: Annotated[
        list[Annotated[str, Field(description="a JPEG or PNG file in base64")] | Pixels], annotated_types.MinLen(1)
    ] = Field(description="pixels (height, width, channels), or (height, width) for grayscale; or files in base64")
    top: Annotated[int, annotated_types.Ge(1)] | None = Field(None, description="number of classes in an answer")


class Health(_Model):
    """Whether the server is ready to answer."""

    status: Literal["ready", "warming", "stopping"]


class Info(_Model):
    """The network that is served."""

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
    explains: bool = Field(description="whether POST /explain is available")
    drift: bool = Field(description="whether /metrics reports the drift of the images")
    version: str


def answers_of(prediction: Prediction) -> list[ClassAnswer]:
    """Return the answers for one image."""
    classes, boxes = prediction.classes, prediction.boxes
    if prediction.values:
        return [ClassAnswer(name=n, value=float(v)) for n, v in zip(classes, prediction.values, strict=True)]  # pyright: ignore[reportCallIssue]
    found = zip(classes, prediction.probabilities, boxes or (None,) * len(classes), strict=True)
    return [
        ClassAnswer(name=name, probability=float(p), box=None if box is None else list(box))  # pyright: ignore[reportCallIssue]
        for name, p, box in found
    ]
