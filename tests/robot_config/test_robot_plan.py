"""Which processes a launch starts, with which parameters; and what a launch refuses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from robot_files import FULL, MINIMAL, line_of

from robot_config import ConfigError, ContractError, LaunchArgumentError, RobotConfig, load_robot_config
from robot_config.plan import (
    EngineArguments,
    LaunchArguments,
    Plan,
    describe,
    from_mapping,
    make_engine_plan,
    make_plan,
    plan_launch,
    table,
)

Write = Callable[..., Path]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policies/reach"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def robot(write: Write, policy: Path) -> RobotConfig:
    return load_robot_config(write())


def executables(plan: Plan) -> list[str]:
    return [process.executable for process in plan.processes]


def parameters(plan: Plan, name: str) -> dict[str, Any]:
    return dict(next(p.parameters for p in plan.processes if p.name == name))


@pytest.mark.parametrize("source", ["engine://", f"engine://{64 * 'a'}"])
def test_the_engine_as_the_source_of_a_policy_is_handed_on(write: Write, source: str) -> None:
    cfg = load_robot_config(write("path: policies/reach", f"path: '{source}'"))
    plan = make_plan(cfg, LaunchArguments(execution_mode="distributed"))
    assert parameters(plan, "act_inference_node")["checkpoint"] == source
    assert "policy_path:=POLICY_DIRECTORY" in plan.notes[-1]


def test_the_launch_may_name_the_engine_as_the_source(robot: RobotConfig) -> None:
    plan = make_plan(robot, LaunchArguments(execution_mode="distributed", policy_path="engine://"))
    assert parameters(plan, "act_inference_node")["checkpoint"] == "engine://"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (LaunchArguments(policy_path="engine://"), "add execution_mode:=distributed"),
        (
            LaunchArguments(policy_path="engine://", execution_mode="distributed", cloud_local=True),
            "cloud_local:=true starts that engine here",
        ),
    ],
)
def test_a_policy_without_a_directory_needs_an_engine_elsewhere(
    robot: RobotConfig, arguments: LaunchArguments, says: str
) -> None:
    with pytest.raises(LaunchArgumentError, match=says):
        make_plan(robot, arguments)


def test_monolithic_computes_on_the_device_node(robot: RobotConfig, policy: Path) -> None:
    plan = make_plan(robot, LaunchArguments(device="cuda"))
    assert executables(plan) == ["lerobot_policy_node", "action_dispatcher_node"]
    device = parameters(plan, "act_inference_node")
    assert (device["execution_mode"], device["device"], device["checkpoint"]) == ("monolithic", "cuda", str(policy))
    assert device["control_mode"] == "model_inference"
    assert Path(device["robot_config_path"]).is_absolute()
    dispatcher = parameters(plan, "action_dispatcher")
    assert dispatcher["inference_action_server"] == "/act_inference_node/DispatchInfer"
    assert (dispatcher["queue_size"], dispatcher["watermark_threshold"]) == (50, 10)
    assert dispatcher["control_frequency"] == 20.0
    assert plan.notes == ()


def test_distributed_never_gives_the_device_node_a_runtime(robot: RobotConfig, policy: Path) -> None:
    plan = make_plan(robot, LaunchArguments(execution_mode="distributed", device="cuda"))
    assert executables(plan) == ["lerobot_policy_node", "action_dispatcher_node"]
    device = parameters(plan, "act_inference_node")
    assert (device["execution_mode"], device["device"]) == ("distributed", "cpu")
    (note,) = plan.notes
    assert f"  inference-service cloud_inference policy_path:={policy} device:=cuda\n" in note
    assert f"  ros2 launch inference_service cloud_inference.launch.py policy_path:={policy} device:=cuda\n" in note
    assert "ROS_DOMAIN_ID" in note


def test_cloud_local_starts_the_engine_here_on_the_same_topics(write: Write, policy: Path) -> None:
    path = write("model: reach}", "model: reach, cloud_inference_topic: /to, cloud_result_topic: /from}")
    cfg = load_robot_config(path)
    plan = make_plan(cfg, LaunchArguments(execution_mode="distributed", cloud_local=True))
    assert executables(plan) == ["pure_inference_node", "lerobot_policy_node", "action_dispatcher_node"]
    engine, device = parameters(plan, "pure_inference"), parameters(plan, "act_inference_node")
    assert (engine["input_topic"], engine["output_topic"]) == ("/to", "/from")
    assert (device["cloud_inference_topic"], device["cloud_result_topic"]) == ("/to", "/from")
    assert engine["policy_path"] == device["checkpoint"] == str(policy)
    assert engine["device"] == "auto"
    (note,) = make_plan(cfg, LaunchArguments(execution_mode="distributed")).notes
    assert "input_topic:=/to output_topic:=/from" in note


def test_options_of_the_runtime_reach_the_engine_here_and_there(write: Write, policy: Path) -> None:
    path = write("lerobot_norm_mode: none}", "lerobot_norm_mode: none, backend_options: {seed: 3, autocast: bfloat16}}")
    plan = make_plan(load_robot_config(path), LaunchArguments(execution_mode="distributed", cloud_local=True))
    options = '{"seed": 3, "autocast": "bfloat16"}'
    assert parameters(plan, "pure_inference")["backend_options"] == options
    (note,) = make_plan(load_robot_config(path), LaunchArguments(execution_mode="distributed")).notes
    assert f" 'backend_options:={options}'\n" in note


def test_options_of_the_runtime_are_an_argument_of_the_engine(policy: Path) -> None:
    words = [f"policy_path:={policy}", 'backend_options:={"seed": 3}']
    plan = make_engine_plan(EngineArguments.parse(words))
    assert parameters(plan, "pure_inference")["backend_options"] == '{"seed": 3}'
    assert parameters(make_engine_plan(EngineArguments.parse(words[:1])), "pure_inference")["backend_options"] == ""


def test_the_yaml_decides_where_the_launch_does_not(write: Write, policy: Path) -> None:
    cfg = load_robot_config(write("execution_mode: monolithic", "execution_mode: distributed"))
    assert parameters(make_plan(cfg, LaunchArguments()), "act_inference_node")["execution_mode"] == "distributed"
    mono = make_plan(cfg, LaunchArguments(execution_mode="monolithic"))
    assert parameters(mono, "act_inference_node")["execution_mode"] == "monolithic"


def test_use_sim_adds_the_simulated_robot_on_real_time(robot: RobotConfig) -> None:
    plan = make_plan(robot, LaunchArguments(use_sim=True))
    assert executables(plan)[0] == "sim_robot"
    assert [p.parameters["use_sim_time"] for p in plan.processes] == [False] * 3


def test_with_inference_overrides_the_mode(robot: RobotConfig) -> None:
    plan = make_plan(robot, LaunchArguments(use_sim=True, with_inference="false"))
    assert executables(plan) == ["sim_robot"]
    assert "runs no policy" in plan.notes[0]


def test_a_mode_without_a_policy_starts_nothing(write: Write, monkeypatch: pytest.MonkeyPatch, policy: Path) -> None:
    cfg = load_robot_config(write(text=FULL))
    assert make_plan(cfg, LaunchArguments(control_mode="teleop")).processes == ()
    with pytest.raises(LaunchArgumentError, match="force_disable for control mode 'teleop'"):
        make_plan(cfg, LaunchArguments(control_mode="teleop", with_inference="true"))
    with pytest.raises(LaunchArgumentError, match="navigation_mode starts stopped"):
        make_plan(cfg, LaunchArguments(control_mode="navi", policy_path=str(policy)))
    with pytest.raises(LaunchArgumentError, match="driven by trajectories"):
        make_plan(cfg, LaunchArguments(control_mode="moveit_planning", with_inference="true"))


def test_an_unknown_control_mode_names_the_nearest(robot: RobotConfig) -> None:
    with pytest.raises(ConfigError, match="no control mode 'model_infrence': did you mean 'model_inference'"):
        make_plan(robot, LaunchArguments(control_mode="model_infrence"))


def test_a_policy_that_is_not_here_is_refused(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_robot_config(write())
    with pytest.raises(ConfigError, match=r"models\.reach\.path: 'policies/reach' does not exist here"):
        make_plan(cfg, LaunchArguments())
    with pytest.raises(LaunchArgumentError, match="policy_path:=nowhere does not exist here"):
        make_plan(cfg, LaunchArguments(policy_path="nowhere"))
    other = tmp_path / "other"
    other.mkdir()
    plan = make_plan(cfg, LaunchArguments(policy_path="other"))
    assert parameters(plan, "act_inference_node")["checkpoint"] == str(other)


def test_a_fragment_says_what_a_launch_lacks(write: Write, policy: Path) -> None:
    text = "control_modes:\n  act:\n    inference: {enabled: true, model: so101_act}\n"
    path = write(text=text)
    with pytest.raises(ContractError, match="no entry with `key: action`"):
        make_plan(load_robot_config(path), LaunchArguments(policy_path=str(policy)))
    contract = MINIMAL[MINIMAL.index("  contract:") : MINIMAL.index("  safety:")]
    path = write(text=text + "robot:\n" + contract.replace("        peripheral: top\n", "        type: a/msg/B\n"))
    with pytest.raises(LaunchArgumentError, match="no `models:` section; add it or give policy_path:=") as caught:
        make_plan(load_robot_config(path), LaunchArguments())
    assert f"{path}:{line_of(path, 'model: so101_act')}" in str(caught.value)
    assert len(make_plan(load_robot_config(path), LaunchArguments(policy_path=str(policy))).processes) == 2


def test_warnings_of_the_file_are_notes_of_the_plan(write: Write, policy: Path) -> None:
    cfg = load_robot_config(write("control_frequency: 20", "control_frequency: 50"))
    assert "2.5 times as fast" in make_plan(cfg, LaunchArguments()).notes[0]


def test_the_engine_alone(policy: Path) -> None:
    plan = make_engine_plan(
        EngineArguments(policy_path=str(policy), device="rknn", input_topic="/a", output_topic="/b")
    )
    (engine,) = plan.processes
    assert (engine.executable, engine.name) == ("pure_inference_node", "pure_inference")
    assert engine.words() == [
        "pure_inference_node",
        "node_name:=pure_inference",
        "use_sim_time:=false",
        "transport:=dds",
        f"policy_path:={policy}",
        "device:=rknn",
        "input_topic:=/a",
        "output_topic:=/b",
        "threads:=0",
        "backend_options:=",
    ]


MODULES = {
    "lerobot_policy_node": ("policy_node", "PolicyParameters"),
    "pure_inference_node": ("engine_node", "EngineParameters"),
    "action_dispatcher_node": ("dispatcher_node", "DispatcherParameters"),
    "sim_robot": ("sim_robot", "SimRobotParameters"),
}


@pytest.mark.parametrize("executable", MODULES)
def test_every_node_takes_the_parameters_of_the_plan(robot: RobotConfig, executable: str) -> None:
    from inference_service.nodes.runtime import build_parameters, parse_arguments

    plan = make_plan(robot, LaunchArguments(use_sim=True, execution_mode="distributed", cloud_local=True))
    spec = next(p for p in plan.processes if p.executable == executable)
    module, name = MODULES[executable]
    parameters_type = getattr(import_module(f"inference_service.nodes.{module}"), name)
    built = build_parameters(parameters_type, parse_arguments(spec.words()[1:]))
    assert {key: getattr(built, key) for key in spec.parameters} == dict(spec.parameters)


# -- arguments ----------------------------------------------------------------------------------------------------


def test_words_become_typed_arguments() -> None:
    words = ["robot_config:=so101_sim", "use_sim:=True", "cloud_local:=0", "with_inference:=true", "device:=cuda:1"]
    arguments = LaunchArguments.parse(words)
    assert arguments == LaunchArguments(robot_config="so101_sim", use_sim=True, with_inference="true", device="cuda:1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robot_confg:=x"], "unknown argument 'robot_confg'; did you mean 'robot_config'?"),
        (["use_sim:=maybe"], "use_sim:=maybe: expected true or false"),
        (
            ["execution_mode:=distibuted"],
            "execution_mode:=distibuted: one of (empty), monolithic, distributed; did you",
        ),
        (["use_sim"], "'use_sim' is not understood: write key:=value"),
        (["device:=cpu", "device:=cuda"], "device:= is given twice"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(LaunchArgumentError) as caught:
        LaunchArguments.parse(words)
    assert message in str(caught.value)


def test_all_wrong_words_are_reported_with_the_list_of_arguments() -> None:
    with pytest.raises(LaunchArgumentError) as caught:
        LaunchArguments.parse(["a", "b:=1", "use_sim:=x"])
    text = str(caught.value)
    assert len(text.partition("Arguments:")[0].strip().splitlines()) == 3
    assert describe(LaunchArguments) in text


def test_an_engine_needs_its_policy_and_whole_threads() -> None:
    with pytest.raises(LaunchArgumentError, match="policy_path:= is required"):
        EngineArguments.parse([])
    with pytest.raises(LaunchArgumentError, match="threads:=two: expected a whole number"):
        EngineArguments.parse(["policy_path:=x", "threads:=two"])
    assert EngineArguments.parse(["policy_path:=x", "threads:=2"]).threads == 2


def test_the_table_feeds_a_launch_file_and_back() -> None:
    rows = {row.name: row for row in table(LaunchArguments)}
    assert (rows["robot_config"].default, rows["use_sim"].default) == ("so101_single_arm", "false")
    assert rows["execution_mode"].choices == ("", "monolithic", "distributed")
    assert next(row for row in table(EngineArguments) if row.name == "policy_path").default is None
    defaults = {name: row.default or "" for name, row in rows.items()}
    assert from_mapping(LaunchArguments, defaults) == LaunchArguments()
    assert all(row.description for row in rows.values())


def test_config_path_overrides_the_robots_name(write: Write, policy: Path) -> None:
    path = write(name="mine.yaml")
    plan = plan_launch(LaunchArguments(robot_config="no_such_robot", config_path=str(path)))
    assert parameters(plan, "act_inference_node")["robot_config_path"] == str(path)
