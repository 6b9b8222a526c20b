"""What the Trainer runs for us: drawing and writing predictions."""

from lightning_pose_zoo.callbacks.draw_predictions import DrawPredictions
from lightning_pose_zoo.callbacks.write_predictions import WritePredictions

__all__ = ["DrawPredictions", "WritePredictions"]
