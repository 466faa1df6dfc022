"""A strict stand-in of ROS 2's ``launch_ros``."""
