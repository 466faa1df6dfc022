"""``rclpy.action``."""

from __future__ import annotations

from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle

__all__ = ["ActionClient", "ActionServer", "CancelResponse", "ClientGoalHandle", "GoalResponse", "ServerGoalHandle"]
