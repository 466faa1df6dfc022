"""ROS 2 on the wire with PyPI ``cyclonedds``, no ROS installed."""
