"""Exporting a method for use without this package, and the command ``pose-zoo export``.

What is exported is ``method(images)``: raw uint8 crops in, keypoints in pixels of the crops and their scores out.
Normalisation and decoding are inside of the graph; the flip test is not, since it doubles the work.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pose_zoo import __version__
from lightning_pose_zoo.checkpoint_settings import trusted_class
from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.errors import CheckpointError, PoseZooError, SettingsError, complain
from lightning_pose_zoo.files import open_atomically

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lightning_pose_zoo.methods.base import PoseModule

__all__ = ["DESCRIPTION", "export_onnx", "export_program", "main", "method_from_checkpoint"]

DESCRIPTION = "lightning_pose_zoo.json"
"""Where a file describes itself: the key of ONNX's metadata, the name of the program's extra file."""

_MOST_PIXELS = 1e-3
_MOST_SCORE = 1e-3  # of the highest score
# Deviations of the pixels. Keypoints move by this about thirty times as far as by rounding, in trained networks.
_NOISE = 1e-4
_STEADY = 0.005  # pixels
_FOR_TRAINING = ("optimizer", "lr_scheduler")

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


class _Expected(NamedTuple):
    """What a method finds on crops that an exported file is compared on.

    Attributes:
        images: (B, 3, H, W) uint8.
        keypoints: (B, K, 2), pixels of the crops.
        scores: (B, K).
        steady: (B, K) bool, where the keypoint stays in its place when the pixels change a little. On flat maps it does
            not, and the order of a sum decides.
    """

    images: Tensor
    keypoints: Tensor
    scores: Tensor
    steady: Tensor


def export_onnx(method: PoseModule, path: str | Path, image_size: tuple[int, int]) -> float:
    """Write a method as an ONNX file.

    Its input ``images`` is (batch, 3, H, W) uint8 RGB; its outputs are ``keypoints`` (batch, K, 2) in pixels of the
    crops and ``scores`` (batch, K), float32. The batch may be of any size. The metadata's ``lightning_pose_zoo.json``
    has version, method, skeleton, image size, normalisation, codec and loss.

    The file is run with onnxruntime on random crops, and put in its place only where it says what the method says.

    Args:
        method: A method, trained; it is left as it was.
        path: The file; an existing one is replaced.
        image_size: Height and width of the crops in pixels.

    Returns:
        The largest distance between a keypoint of the file and the method's, in pixels of the crops.

    Raises:
        SettingsError: Where ONNX's packages are missing, the method cannot take crops of that size, or the file says
            something else than the method.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"an ONNX file needs {', '.join(missing)}, not installed here; run pip install "
            "'lightning-pose-zoo[export]', or export a program of torch (--format program)."
        )

    def write(program: ExportedProgram, file: BinaryIO, description: str) -> Run:
        import onnxruntime

        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["keypoints", "scores"],
            dynamic_shapes=({0: "batch"},),
        )
        assert exported is not None
        exported.model.metadata_props[DESCRIPTION] = description
        file.write(exported.model_proto.SerializeToString())
        file.flush()
        session = onnxruntime.InferenceSession(file.name, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> tuple[Tensor, Tensor]:
            keypoints, scores = session.run(None, {"images": images.numpy()})
            return torch.from_numpy(keypoints), torch.from_numpy(scores)

        return run

    return _export(method, Path(path), image_size, write)


def export_program(method: PoseModule, path: str | Path, image_size: tuple[int, int]) -> float:
    """Write a method as a program of ``torch.export`` (.pt2), which ``torch.export.load`` reads without this package.

    Inputs, outputs and checks are those of ``export_onnx``. The description is the extra file
    ``lightning_pose_zoo.json``. The program runs on the CPU; ``torch.export.passes.move_to_device_pass`` moves it.

    Args:
        method: A method, trained; it is left as it was.
        path: The file; an existing one is replaced.
        image_size: Height and width of the crops in pixels.

    Returns:
        The largest distance between a keypoint of the file and the method's, in pixels of the crops.

    Raises:
        SettingsError: Where the method cannot take crops of that size, or the file says something else than it.
    """

    def write(program: ExportedProgram, file: BinaryIO, description: str) -> Run:
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={DESCRIPTION: description})
        file.write(content.getvalue())
        file.flush()
        with Path(file.name).open("rb") as written:
            run: Run = torch.export.load(written).module()  # type: ignore[arg-type]
        return run

    return _export(method, Path(path), image_size, write)


def _export(
    method: PoseModule,
    path: Path,
    image_size: tuple[int, int],
    write: Callable[[ExportedProgram, BinaryIO, str], Run],
) -> float:
    """Trace a method, have it written, and compare what was written with it."""
    if method.samples != "persons":
        raise SettingsError(
            f"{type(method).__name__} finds people in whole pictures, and its grouping is no part of a graph; only "
            "methods for persons' crops can be exported. torch.export.export(method, ...) gives its maps."
        )
    with _ready(method), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own parts here
        expected = _expected(method, image_size)
        program = torch.export.export(method, (expected.images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        with open_atomically(path) as file:
            run = write(program, file, json.dumps(_description(method, image_size)))
            return max(_distance(run, expected, count, path) for count in (1, len(expected.images)))


@contextmanager
def _ready(method: PoseModule) -> Iterator[None]:
    """Have a method on the CPU and in evaluation, and put it back afterwards."""
    device, training = method.device, {module: module.training for module in method.modules()}
    try:
        method.cpu().eval()
        yield
    finally:
        method.to(device)
        for module, was in training.items():
            module.training = was


def _expected(method: PoseModule, image_size: tuple[int, int], count: int = 5) -> _Expected:
    """Find the keypoints of random crops, made of squares of 8 pixels: what is finer blurs to grey in a network."""
    if len(image_size) != 2 or min(image_size) < 1:
        raise SettingsError(f"image_size is {tuple(image_size)}; give height and width in pixels, as in 256 192.")
    height, width = image_size
    random = torch.Generator().manual_seed(0)
    squares = torch.rand(count, 3, -(-height // 8), -(-width // 8), generator=random)
    images = (F.interpolate(squares, scale_factor=8)[..., :height, :width] * 255).to(torch.uint8)
    try:
        keypoints, scores = method(images)
    except PoseZooError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{type(method).__name__} cannot take crops of {height}x{width}: {reason}; give an image_size whose sides "
            "are multiples of 32."
        ) from error
    pixels = method.normalized(images)
    steady = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(2):
        moved, _ = method(pixels + _NOISE * torch.randn(pixels.shape, generator=random))
        steady &= (moved - keypoints).norm(dim=-1) < _STEADY
    if not steady.any():
        raise SettingsError(
            f"on random crops the maps of this {type(method).__name__} are so flat that rounding decides where its "
            "keypoints are, so that an exported file could not be checked; train it first."
        )
    return _Expected(images, keypoints, scores, steady)


def _distance(run: Run, expected: _Expected, count: int, path: Path) -> float:
    """Return by how much a file differs from its method on the first crops, in pixels.

    Raises:
        SettingsError: Where that is too much.
    """
    images, keypoints, scores, steady = (values[:count] for values in expected)
    found, found_scores = run(images)
    pixels = torch.where(steady, (found - keypoints).norm(dim=-1), 0.0).max().item()
    score = (found_scores - scores).abs().max().item() / max(scores.abs().max().item(), 1e-12)
    if not (pixels <= _MOST_PIXELS and score <= _MOST_SCORE):  # written so that NaN is refused too
        raise SettingsError(
            f"'{path}' was not written: on {count} random crops it differs from the method by {pixels:.2g} pixels and "
            f"{score:.2g} of the highest score; {_MOST_PIXELS} of each is allowed. Update torch, onnxscript and "
            "onnxruntime, or export the other format."
        )
    return pixels


def _description(method: PoseModule, image_size: tuple[int, int]) -> dict[str, Any]:
    """Say what somebody needs who has nothing but the file."""
    from lightning_pose_zoo.methods.remembering import what_output_means

    return {**what_output_means(method), "version": __version__, "image_size": [int(side) for side in image_size]}


def method_from_checkpoint(path: str | Path) -> tuple[PoseModule, tuple[int, int] | None]:
    """Build a method from nothing but its checkpoint.

    The checkpoint says which of this package's methods it is, with which arguments. Codec, loss and normalisation are
    built where the checkpoint has their settings, which it has from the command line; a method that was built in Python
    with others than its own defaults must be loaded there.

    Args:
        path: What training wrote.

    Returns:
        The method, and the height and width of the crops that it was trained on, where the checkpoint says so.

    Raises:
        CheckpointError: Where the file is missing, damaged, of no method of this package, or asks for classes of
            others.
    """
    from lightning_pose_zoo import methods
    from lightning_pose_zoo.weights.loading import misfits

    content = read_checkpoint(path)
    name = content.get("method") if isinstance(content, dict) else None
    if name not in methods.__all__ or not {"hyper_parameters", "state_dict"} <= content.keys():
        raise CheckpointError(
            f"'{path}' is no checkpoint of a method of this package. Weights of other projects are exported in Python: "
            "load_weights(method, path), then export_onnx(method, ...)."
        )
    arguments = {
        key: value
        for key, value in content["hyper_parameters"].items()
        if not key.startswith("_") and key not in _FOR_TRAINING
    }
    if "pretrained" in arguments:
        arguments["pretrained"] = False  # the weights are in the checkpoint
    try:
        method: PoseModule = getattr(methods, name)(**{key: _built(value) for key, value in arguments.items()})
    except PoseZooError:
        raise
    except Exception as error:  # the arguments come out of a file
        raise CheckpointError(f"'{path}' does not describe a {name} that can be built: {error}") from error
    try:
        method.on_load_checkpoint(content)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error} Then call export_onnx or export_program on it.") from error
    problems = misfits(method.state_dict(), content["state_dict"])
    if problems:
        raise CheckpointError(complain(f"'{path}'", problems, f"It was written by another version of {name}."))
    method.load_state_dict(content["state_dict"])
    size = content.get("image_size")
    return method, (int(size[0]), int(size[1])) if size is not None else None


def _built(value: Any) -> Any:
    """Build a part out of its ``class_path`` and ``init_args``; other values are returned as they are.

    Raises:
        CheckpointError: Where the class is not one of this package's modules.
    """
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    part = trusted_class(str(value["class_path"]))
    if part is None or not issubclass(part, nn.Module):
        raise CheckpointError(
            f"the checkpoint asks for the class {value['class_path']}, which is not one of this package's; load it in "
            "Python with your class, then call export_onnx or export_program on it."
        )
    return part(**{key: _built(item) for key, item in (value.get("init_args") or {}).items()})


def main(words: Sequence[str]) -> None:
    """Parse the words after ``export``, write the file and say how it compares with the checkpoint.

    Raises:
        SystemExit: With 2 where the command line is wrong, with 0 after ``--help``.
        PoseZooError: Where the checkpoint cannot be used, or not be exported.
    """
    parser = argparse.ArgumentParser(prog="pose-zoo export", description="Write a checkpoint as ONNX or torch program.")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint that pose-zoo fit wrote")
    parser.add_argument("--format", choices=("onnx", "program"), default="onnx", help="program: torch.export's .pt2")
    parser.add_argument("--out", required=True, help="the file to write, such as model.onnx or model.pt2")
    parser.add_argument(
        "--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the crops in pixels; those of the training by default, where the checkpoint says them",
    )  # fmt: skip
    given = parser.parse_args(list(words))
    method, trained_size = method_from_checkpoint(given.ckpt_path)
    size = tuple(given.image_size) if given.image_size else trained_size
    if size is None:
        raise SettingsError(
            f"'{given.ckpt_path}' does not say the size of its crops; give --image_size, as in --image_size 256 192."
        )
    pixels = (export_onnx if given.format == "onnx" else export_program)(method, given.out, size)
    megabytes = Path(given.out).stat().st_size / 1e6
    skeleton = method.skeleton
    print(
        f"{given.out}: {type(method).__name__}, {skeleton.num_keypoints} keypoints ({skeleton.name}), crops "
        f"of {size[0]}x{size[1]}, {megabytes:.1f} MB; within {pixels:.1g} pixels of the checkpoint on random crops"
    )
