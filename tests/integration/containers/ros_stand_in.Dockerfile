# What device-ros looks for in its base: tests of the image's own steps need no ROS 2, nor a registry that has one.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
RUN prefix=/opt/ros/standin site=/opt/ros/standin/python index=/opt/ros/standin/share/ament_index/resource_index/packages \
 && mkdir -p $site/rclpy $index && touch $site/ibrobot_msgs.py $index/rmw_cyclonedds_cpp \
 && printf 'import os, sys\nsys.stderr.write("stand-in for rclpy: " + os.environ.get("CYCLONEDDS_URI", "") + "\\n")\n' \
    > $site/rclpy/__init__.py \
 && printf 'export ROS_DISTRO=standin AMENT_PREFIX_PATH=%s PYTHONPATH="%s:$PYTHONPATH"\n' $prefix $site > $prefix/setup.sh
