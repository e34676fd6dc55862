"""Where metrics and completions go: `from grpo_envs.loggers import Logger`."""

from grpo_envs.loggers.basic import (
    ConsoleHandler,
    ConsoleLogger,
    JsonlLogger,
    Logger,
    TensorBoardLogger,
)

__all__ = ["ConsoleHandler", "ConsoleLogger", "JsonlLogger", "Logger", "TensorBoardLogger"]
