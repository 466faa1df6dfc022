"""Robot files for tests, as text."""

from __future__ import annotations

from pathlib import Path

MINIMAL = """\
robot:
  name: arm
  models:
    reach: {path: policies/reach, policy_type: act, lerobot_norm_mode: none}
  joints:
    arm: ["1", "2"]
    gripper: ["3"]
    all: ["1", "2", "3"]
  default_control_mode: model_inference
  control_modes:
    model_inference:
      inference: {enabled: true, execution_mode: monolithic, model: reach}
      executor: {queue_size: 50, watermark_threshold: 10, control_frequency: 20}
  peripherals:
    - {type: camera, name: top, driver: opencv, index: 0, width: 640, height: 480, fps: 30, exposure: -1}
  contract:
    rate_hz: 20
    observations:
      - key: observation.images.top
        topic: /camera/top/image_raw
        peripheral: top
      - key: observation.state
        topic: /joint_states
        selector: {names: [position.1, position.2, position.3]}
    actions:
      - selector: {names: [action.0, action.1]}
        publish: {topic: /arm/commands}
        safety_behavior: hold
      - selector: {names: [action.2]}
        publish: {topic: /gripper/commands}
        safety_behavior: hold
  safety:
    joint_limits:
      "1": {min: -1.0, max: 1.0}
      "2": {min: -2.0, max: 2.0}
      "3": {min: 0.0, max: 1.5}
"""


FULL = """\
# The shape of a robot file as IB-Robot users have them: their own sections around the ones that matter here.
robot:
  name: full_arm
  type: arm
  robot_type: arm_type
  gazebo_world_name: world
  gazebo_gui: {qt_platform: xcb, libgl_always_software: true}
  controller_startup_timeout: {sim: 60.0, hardware: 20.0}
  models:
    first:
      path: $(env MODELS)/first
      policy_type: act
    second:
      path: ./models/second
      policy_type: act
      device: rknn
      lerobot_norm_mode: range_m100_100
      normalization: {action_scale: [1.0], action_offset: [0.0]}
  joints:
    arm: [1, 2]
    gripper: ["3"]
    all: ["1", "2", "3"]
  moveit: {arm_group_name: arm, base_link: base}
  default_control_mode: "model_inference"
  control_modes:
    teleop:
      description: "By hand"
      description_cn: "x"
      controllers: [joint_state_broadcaster, arm_position_controller]
      sim_controllers: [joint_state_broadcaster]
      inference: {enabled: false, force_disable: true}
      executor: {type: topic, mode: teleop, queue_size: 100, control_frequency: 50.0}
    model_inference:
      controllers: [joint_state_broadcaster]
      inference: {enabled: true, model: second, action_server: /inference/dispatch}
      executor: {type: topic, mode: model_inference, queue_size: 100, watermark_threshold: 50, control_frequency: 20.0}
    navi:
      inference: {enabled: true, execution_mode: "distributed", model: second}
      executor: {type: topic, mode: navi, dispatcher: action_dispatch, navigation_mode: true, watermark_threshold: 20}
    moveit_planning:
      inference: {enabled: false}
      executor: {type: action, mode: moveit_planning}
  voice_asr: {enabled: false, model_path: models/asr, device_index: -1}
  ros2_control:
    hardware_plugin: some_hardware/Plugin
    port: /dev/ttyACM0
    calib_file: $(env HOME)/.calibrate/arm.json
    joint_names: ["1", "2", "3"]
    velocity_joints: ["7"]
    reset_positions: {"1": 0.0}
    urdf_path: $(find somewhere)/arm.urdf.xacro
    controllers: [joint_state_broadcaster]
  peripherals:
    - {type: camera, name: top, driver: opencv, index: 0, width: 640, height: 480, fps: 30, pixel_format: mjpeg2rgb,
       use_default_transform: true, transform: {parent_frame: base, x: 0.0}, fovy: 0, frame_id: f}
    - {type: lidar, name: laser, driver: ldlidar, params: {range_min: 0.02}}
  simulation: {platform: gazebo, scene: null, sim_models_pkg: sim_models}
  navigation: {enabled: false, modes: {full: {config: $(find x)/y.yaml}}}
  contract:
    base_contract: $(find robot_config)/config/contracts/some.yaml
    rate_hz: 20
    max_duration_s: 90.0
    observations:
      - key: observation.images.top
        topic: /camera/top/image_raw
        type: sensor_msgs/msg/Image
        peripheral: top
        image: {resize: [480, 640]}
        align: {strategy: hold, stamp: header, tol_ms: 1500}
        qos: {reliability: best_effort, history: keep_last, depth: 10}
      - key: observation.pointcloud.top
        topic: /camera/top/points
        type: sensor_msgs/msg/PointCloud2
      - key: observation.state
        topic: /joint_states
        type: sensor_msgs/msg/JointState
        selector: { names: ["position.1", "position.2", "position.3", "velocity.7"] }
        align: {strategy: hold, stamp: header, tol_ms: 500}
        qos: {reliability: best_effort, history: keep_last, depth: 50}
    actions:
      - key: action
        selector: {names: ["action.0", "action.1"]}
        publish:
          topic: /arm_position_controller/commands
          type: std_msgs/msg/Float64MultiArray
          layout: flat
          qos: {reliability: best_effort, history: keep_last, depth: 10}
          strategy: {mode: nearest, tolerance_ms: 500}
        safety_behavior: hold
      - key: action
        selector: {names: ["action.2"]}
        publish: {topic: /gripper_position_controller/commands, type: std_msgs/msg/Float64MultiArray}
        from_tensor: {clamp: [-1.0, 1.0]}
        safety_behavior: hold
      - key: action
        selector: {names: ["action.3"]}
        publish: {topic: /base_velocity_controller/commands, type: std_msgs/msg/Float64MultiArray}
        safety_behavior: zeros
    recording: {storage: mcap}
  teleoperation:
    enabled: true
    active_device: leader
    devices: [{name: leader, type: leader_arm, port: /dev/ttyACM1}]
    safety:
      joint_limits:
        "1": {"min": -2.0, "max": 2.0}
        "2": {"min": -1.9, "max": 1.9}
        "3": {"min": 0.0, "max": 1.0}
  recording: {bag_base_dir: "~/bags", storage: mcap}
"""


def line_of(path: Path, text: str) -> int:
    """The line, from 1, of the first occurrence of ``text``."""
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)
