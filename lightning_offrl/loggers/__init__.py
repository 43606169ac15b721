"""Loggers of metrics: `MetricsCSV`, whose file lies beside the checkpoints, and Weights & Biases."""

from lightning_offrl.loggers.metrics_csv import MetricsCSV
from lightning_offrl.loggers.wandb import WandbLogger

__all__ = ["MetricsCSV", "WandbLogger"]
