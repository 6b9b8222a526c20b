"""What the Trainer runs for us: drawing, writing, timing, phases, compiling, resuming, an end at a loss of NaN."""

from lightning_pose_zoo.callbacks.compile_network import CompileNetwork
from lightning_pose_zoo.callbacks.draw_predictions import DrawPredictions
from lightning_pose_zoo.callbacks.exact_resume import ExactResume
from lightning_pose_zoo.callbacks.fit_pose_nms import FitPoseNMS
from lightning_pose_zoo.callbacks.report_stage_times import ReportStageTimes
from lightning_pose_zoo.callbacks.stop_on_non_finite_loss import StopOnNonFiniteLoss
from lightning_pose_zoo.callbacks.training_phases import TrainingPhases
from lightning_pose_zoo.callbacks.write_predictions import WritePredictions

__all__ = [
    "CompileNetwork",
    "DrawPredictions",
    "ExactResume",
    "FitPoseNMS",
    "ReportStageTimes",
    "StopOnNonFiniteLoss",
    "TrainingPhases",
    "WritePredictions",
]
