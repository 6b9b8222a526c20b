"""Exporting a method for use without this package, and the command ``pose-zoo export``.

What is exported of a method for persons' crops is ``method(images)``: raw uint8 crops in, keypoints in pixels of the
crops and their scores out; of a method for whole pictures ``methods.exported_pictures``: maps and candidates out.
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
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn

from lightning_pose_zoo import __version__
from lightning_pose_zoo.checkpoint_settings import trusted_class
from lightning_pose_zoo.checkpoints import read_checkpoint
from lightning_pose_zoo.errors import CheckpointError, PoseZooError, SettingsError, complain
from lightning_pose_zoo.export_checks import Check, CropCheck, PictureCheck, Run
from lightning_pose_zoo.files import open_atomically

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from lightning_pose_zoo.methods.base import PoseModule
    from lightning_pose_zoo.methods.exported_pictures import PictureGraph

__all__ = ["DESCRIPTION", "export_onnx", "export_program", "main", "method_from_checkpoint"]

DESCRIPTION = "lightning_pose_zoo.json"
"""Where a file describes itself: the key of ONNX's metadata, the name of the program's extra file."""

_FOR_TRAINING = ("optimizer", "lr_scheduler")

Write = Callable[["ExportedProgram", BinaryIO, str, Sequence[str]], Run]


def export_onnx(method: PoseModule, path: str | Path, image_size: tuple[int, int]) -> float:
    """Write a method as an ONNX file.

    Its input ``images`` is (batch, 3, H, W) uint8 RGB; its outputs are ``keypoints`` (batch, K, 2) in pixels of the
    crops and ``scores`` (batch, K), float32; those of a method for whole pictures are told by its ``graph()``. The
    batch may be of any size. The metadata's ``lightning_pose_zoo.json`` has version, method, skeleton, image size,
    normalisation, codec and loss, the names of the outputs, and what persons are put together by.

    The file is run with onnxruntime on random crops, and put in its place only where it says what the method says.

    Args:
        method: A method, trained; it is left as it was.
        path: The file; an existing one is replaced.
        image_size: Height and width of the crops, or of whole pictures, in pixels.

    Returns:
        The largest distance between a keypoint, or a candidate, of the file and the method's, in pixels.

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

    def write(program: ExportedProgram, file: BinaryIO, description: str, outputs: Sequence[str]) -> Run:
        import onnxruntime

        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes=({0: "batch"},),
        )
        assert exported is not None
        exported.model.metadata_props[DESCRIPTION] = description
        file.write(exported.model_proto.SerializeToString())
        file.flush()
        session = onnxruntime.InferenceSession(file.name, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(found) for found in session.run(None, {"images": images.numpy()}))

        return run

    return _export(method, Path(path), image_size, write)


def export_program(method: PoseModule, path: str | Path, image_size: tuple[int, int]) -> float:
    """Write a method as a program of ``torch.export`` (.pt2), which ``torch.export.load`` reads without this package.

    Inputs, outputs and checks are those of ``export_onnx``. The description is the extra file
    ``lightning_pose_zoo.json``. The program runs on the CPU; ``torch.export.passes.move_to_device_pass`` moves it.

    Args:
        method: A method, trained; it is left as it was.
        path: The file; an existing one is replaced.
        image_size: Height and width of the crops, or of whole pictures, in pixels.

    Returns:
        The largest distance between a keypoint, or a candidate, of the file and the method's, in pixels.

    Raises:
        SettingsError: Where the method cannot take crops of that size, or the file says something else than it.
    """

    def write(program: ExportedProgram, file: BinaryIO, description: str, _outputs: Sequence[str]) -> Run:
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={DESCRIPTION: description})
        file.write(content.getvalue())
        file.flush()
        with Path(file.name).open("rb") as written:
            run: Run = torch.export.load(written).module()  # type: ignore[arg-type]
        return run

    return _export(method, Path(path), image_size, write)


def _export(method: PoseModule, path: Path, image_size: tuple[int, int], write: Write) -> float:
    """Trace a method, have it written, and compare what was written with it."""
    with _ready(method), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own parts here
        from lightning_pose_zoo.methods.remembering import what_output_means

        described = {**what_output_means(method), "version": __version__, "image_size": [int(s) for s in image_size]}
        module: nn.Module = method
        if method.samples == "pictures":
            graph = _graph_of(method)
            check: Check = PictureCheck(graph, image_size)
            module, outputs = graph, graph.outputs
            described |= {"association": graph.association()}
        else:
            check, outputs = CropCheck(method, image_size), ("keypoints", "scores")
        program = torch.export.export(module, (check.images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
        with open_atomically(path) as file:
            run = write(program, file, json.dumps({**described, "outputs": list(outputs)}), outputs)
            return max(check.distance(run, count, path) for count in (1, len(check.images)))


def _graph_of(method: PoseModule) -> PictureGraph:
    """Return what is exported of a method for whole pictures.

    Raises:
        SettingsError: Where it does not say.
    """
    if not hasattr(method, "graph"):
        raise SettingsError(
            f"{type(method).__name__} finds people in whole pictures and has no graph() that says what of it can be "
            "exported; see methods/exported_pictures.py."
        )
    graph: PictureGraph = method.graph()  # type: ignore[operator]
    return graph.eval()


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
        help="of the crops, or whole pictures, in pixels; those of the training by default, where the checkpoint says",
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
    skeleton, what = method.skeleton, "crops" if method.samples == "persons" else "pictures"
    print(
        f"{given.out}: {type(method).__name__}, {skeleton.num_keypoints} keypoints ({skeleton.name}), {what} "
        f"of {size[0]}x{size[1]}, {megabytes:.1f} MB; within {pixels:.1g} pixels of the checkpoint on random {what}"
    )
