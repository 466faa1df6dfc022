"""The same protocol on rclpy, where ROS 2 is installed."""
