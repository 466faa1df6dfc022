"""Robot files of the shapes that IB-Robot users have, as text: an arm on wheels, two arms on one controller each."""

from __future__ import annotations

MOBILE_BASE = """\
robot:
  name: rover
  type: rover
  robot_type: rover
  models:
    fetch: {path: $(env MODELS)/fetch, policy_type: act, lerobot_norm_mode: range_m100_100}
  joints:
    arm: ["1", "2"]
    gripper: ["3"]
    all: ["1", "2", "3"]
  default_control_mode: "model_inference"
  control_modes:
    model_inference:
      controllers: [joint_state_broadcaster, base_velocity_controller]
      inference: {enabled: true, execution_mode: "distributed", model: fetch, action_server: /inference/dispatch}
      executor: {type: topic, mode: model_inference, queue_size: 100, watermark_threshold: 50, control_frequency: 30}
  ros2_control:
    hardware_plugin: rover_hardware/Plugin
    port: /dev/ttyACM0
    calib_file: $(optenv CALIBRATION /nowhere)/rover.json
    joint_names: ["1", "2", "3"]
    velocity_joints: ["7", "8"]
    base_vel_max_rad: 4.0
    urdf_path: $(find rover_description)/urdf/rover.urdf.xacro
  peripherals:
    - {type: camera, name: front, driver: opencv, index: 4, width: 640, height: 480, fps: 30, brightness: -1,
       transform: {parent_frame: base, x: 0.1}}
    - {type: camera, name: depth, driver: realsense, serial_number: "", width: 640, height: 480, fps: 30,
       pixel_format: bgr8, enable_pointcloud: false, align_depth: true, frame_id: depth_link}
    - {type: lidar, name: laser, driver: ldlidar, params: {range_min: 0.02}}
  contract:
    rate_hz: 30
    observations:
      - {key: observation.images.front, peripheral: front, image: {resize: [480, 640]}}
      - key: observation.images.depth
        topic: /camera/depth/image_rect_raw
        type: sensor_msgs/msg/Image
        peripheral: depth
        image: {encoding: 16UC1, resize: [480, 640]}
      - key: observation.state
        topic: /joint_states
        type: sensor_msgs/msg/JointState
        selector: {names: [position.1, position.2, position.3, velocity.7, velocity.8]}
        align: {strategy: hold, stamp: header, tol_ms: 500}
    actions:
      - {selector: {names: [action.0, action.1]}, publish: {topic: /arm/commands}, safety_behavior: hold}
      - {selector: {names: [action.2]}, publish: {topic: /gripper/commands}, safety_behavior: hold}
      - {selector: {names: [action.3, action.4]}, publish: {topic: /base/commands}, safety_behavior: zeros}
"""

DUAL_ARM = """\
robot:
  name: pair
  type: pair
  robot_type: aloha
  models:
    fold: {path: $(find arms)/models/fold, policy_type: act, lerobot_norm_mode: degrees}
  ros2_control:
    hardware_plugin: arms/Plugin
    calib_file: $(env HOME)/.calibrate/pair.json
    gripper_joints: [left_grip, right_grip]
  joints:
    left_arm: [left_1, left_2]
    left_gripper: [left_grip]
    right_arm: [right_1, right_2]
    right_gripper: [right_grip]
  moveit: {arm_group_name: left_arm, base_link: base}
  control_modes:
    model_inference:
      inference: {enabled: true, model: fold}
      executor: {type: topic, queue_size: 100, watermark_threshold: 50}
  contract:
    base_contract: $(find robot_config)/config/contracts/some.yaml
    rate_hz: 20
    observations:
      - key: observation.state
        topic: /right/joint_states
        selector: {names: [position.right_1, position.right_2, position.right_grip]}
      - key: observation.state
        topic: /left/joint_states
        selector: {names: [position.left_1, position.left_2, left_grip, effort.left_grip]}
    actions:
      - selector: {names: [action.0, action.1]}
        publish: {topic: /left_arm_controller/commands}
      - selector: {names: [action.2]}
        publish: {topic: /left_gripper_controller/commands}
      - selector: {names: [action.3, action.4, action.5]}
        publish: {topic: /right_arm_controller/commands}
"""
