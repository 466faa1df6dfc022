"""Run LeRobot policies on real robots: pure pipeline, thin nodes, ROS 2 on the wire."""

__version__ = "0.1.0"
