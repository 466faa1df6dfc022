"""scripts/lib/python-env.sh on machines made up of stand-ins: a PATH of our own, pythons that are shell scripts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LIBRARY = REPO / "scripts" / "lib" / "python-env.sh"
TOOLS = "bash sh timeout sort head tail cut cat grep sed df awk mkdir rm find sha256sum ls dirname sleep flock cp touch"

# A python that says who it is, makes environments of copies of itself, and writes down what pip is asked.
FAKE_PYTHON = """#!/bin/sh
VERSION="{version}"; REAL="{real}"
case "$*" in
  *version_info*) echo "$VERSION $REAL" ;;
  *"import ensurepip"*) [ -z "$NO_ENSUREPIP" ] ;;
  "-m venv --without-pip"*) exit 1 ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
  "-m virtualenv"*) exit 1 ;;
  "-m pip"*"--version") [ -z "$NO_PIP" ] && echo "pip ${{PIP_VERSION:-26.3}} from /x" ;;
  "-m pip"*"--upgrade pip"*) echo "upgrade" >> "$CALLS" ;;
  "-m pip"*" install"*) echo "pip $*" >> "$CALLS"; echo "$PIP_SAYS"
    [ -z "$PIP_SLEEPS" ] || {{ sleep "$PIP_SLEEPS" & echo $! > "$CALLS.pid"; wait; }}
    exit ${{PIP_STATUS:-0}} ;;
  "-I -c ") [ -z "$INTERRUPTED" ] || {{ kill -INT $PPID; exit 1; }} ;;
  *) exit 9 ;;
esac
"""


class Machine:
    """A PATH with the usual tools and only those pythons that a test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.home = root / "home"
        self.repo = root / "repo"
        for folder in (self.bin, self.home, self.repo):
            folder.mkdir()
        (self.repo / "pyproject.toml").write_text("one\n")
        self.calls = root / "calls"
        for tool in TOOLS.split():
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        self.env = {"PATH": str(self.bin), "HOME": str(self.home), "CALLS": str(self.calls)}

    def script(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(self, name: str, version: str, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / name
        return self.script(path, FAKE_PYTHON.format(version=version, real=path))

    def run(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        program = f'set -euo pipefail\nPROGRAM=test\nREPO="{self.repo}"\n. "{LIBRARY}"\n{script}\n'
        return subprocess.run(
            ["bash", "-c", program], env={**self.env, **env}, capture_output=True, text=True, timeout=60, check=False
        )

    def find(self, minors: str = "12 13 11 10") -> subprocess.CompletedProcess[str]:
        return self.run(f'find_python {minors} || {{ explain_no_python {minors}; exit 1; }}; echo "$FOUND_PYTHON"')

    def ensure(self, extras: str = "onnx", **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(f'ensure_env "{self.root}/env" {extras} 12 11; echo "$ENV_PYTHON"', **env)

    def pip_calls(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_prefers_the_first_version_asked_for(machine: Machine) -> None:
    machine.python("python3.11", "3 11")
    machine.python("python3.13", "3 13")
    wanted = machine.python("python3.12", "3 12")
    assert machine.find().stdout.strip() == str(wanted)


def test_a_stand_in_that_refuses_is_passed_over_for_the_real_binary_behind_it(machine: Machine) -> None:
    machine.script(machine.bin / "python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    real = machine.python("python3.12", "3 12", machine.home / ".pyenv/versions/3.12.1/bin")
    machine.python("python3", "3 11")
    assert machine.find().stdout.strip() == str(real)


def test_finds_a_python_that_uv_manages(machine: Machine) -> None:
    folder = machine.home / ".local/share/uv/python/cpython-3.13.2-linux-x86_64-gnu/bin"
    real = machine.python("python3.13", "3 13", folder)
    assert machine.find().stdout.strip() == str(real)


def test_a_plain_python3_serves_when_it_is_new_enough(machine: Machine) -> None:
    plain = machine.python("python3", "3 14")
    assert machine.find().stdout.strip() == str(plain)
    assert machine.find("12 13").returncode == 0


def test_no_python_says_what_was_looked_for_and_how_to_get_one(machine: Machine) -> None:
    machine.python("python3", "3 9")
    machine.script(machine.bin / "python3.11", "#!/bin/sh\nexit 127\n")
    done = machine.find()
    assert done.returncode == 1
    for part in ("3.12, 3.13, 3.11, 3.10", f"{machine.bin}/python3 (Python 3.9)", "python3.11 (does not run)", ".pyenv",
                 "apt-get install python3 python3-venv", "uv python install 3.12"):  # fmt: skip
        assert part in done.stderr


def test_an_environment_is_made_once_and_again_only_when_what_it_is_made_of_changes(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    first = machine.ensure()
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == f"{machine.root}/env/bin/python"
    assert machine.ensure().stderr == ""
    assert len(machine.pip_calls()) == 1
    machine.ensure("onnx,sim")
    (machine.repo / "pyproject.toml").write_text("two\n")
    machine.ensure("onnx,sim")
    compiled = machine.repo / "inference_service/core/native/pixels.c"
    compiled.parent.mkdir(parents=True)
    compiled.write_text("int one;\n")
    machine.ensure("onnx,sim")
    machine.ensure("onnx,sim")
    assert [call.rsplit("[", 1)[1] for call in machine.pip_calls()] == ["onnx]", *["onnx,sim]"] * 3]


def test_another_python_remakes_the_environment(machine: Machine) -> None:
    machine.python("python3.11", "3 11")
    machine.ensure()
    machine.python("python3.12", "3 12")
    done = machine.ensure()
    assert "Python 3.12" in done.stderr
    assert 'VERSION="3 12"' in (machine.root / "env/bin/python").read_text()


def test_a_failed_installation_is_told_and_tried_again(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    done = machine.ensure(PIP_STATUS="1", PIP_SAYS="ERROR: Temporary failure in name resolution")
    assert done.returncode == 1
    assert "Temporary failure" in done.stderr
    assert "Only the first start needs a network" in done.stderr
    assert machine.ensure().returncode == 0
    assert len(machine.pip_calls()) == 2


def test_an_old_pip_is_updated_first(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    assert machine.ensure(PIP_VERSION="23.0.1").returncode == 0
    assert [call.split()[0] for call in machine.pip_calls()] == ["upgrade", "pip"]


def test_without_ensurepip_virtualenv_makes_the_environment(machine: Machine) -> None:
    python = machine.python("python3.12", "3 12")
    machine.script(machine.bin / "virtualenv", f'#!/bin/sh\n{python} -m venv "$4"\n')
    done = machine.ensure(NO_ENSUREPIP="1")
    assert done.returncode == 0, done.stderr


def test_without_any_way_to_make_an_environment_the_package_to_install_is_named(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    done = machine.ensure(NO_ENSUREPIP="1", NO_PIP="1")
    assert done.returncode == 1
    assert "apt-get install python3.12-venv" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    precious = machine.root / "env" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    done = machine.ensure()
    assert done.returncode == 1
    assert "not a virtual environment" in done.stderr
    assert precious.read_text() == "years of work"


def test_an_interrupted_check_leaves_the_environment_as_it_is(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    assert machine.ensure().returncode == 0
    done = machine.ensure(INTERRUPTED="1")
    assert (done.returncode, done.stderr) == (130, "")
    assert machine.ensure().stderr == ""


def test_an_environment_that_was_being_taken_apart_is_made_anew(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    assert machine.ensure().returncode == 0
    (machine.root / "env/pyvenv.cfg").unlink()
    (machine.root / "env/.unfinished").touch()
    done = machine.ensure(extras="onnx,sim")
    assert done.returncode == 0, done.stderr
    assert not (machine.root / "env/.unfinished").exists()


def test_ctrl_c_during_the_installation_stops_it_and_the_next_start_goes_on(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    program = f'set -eu\nPROGRAM=test\nREPO="{machine.repo}"\n. "{LIBRARY}"\nensure_env "{machine.root}/env" onnx 12\n'
    started = subprocess.Popen(
        ["bash", "-c", program], env={**machine.env, "PIP_SLEEPS": "300"}, start_new_session=True
    )
    noted = machine.calls.with_suffix(".pid")
    deadline = time.monotonic() + 30
    while not (noted.exists() and noted.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(20) == 130
    installing = Path(f"/proc/{noted.read_text().strip()}/stat")
    while installing.exists() and installing.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not installing.exists() or installing.read_text().split()[2] == "Z"
    assert machine.ensure().returncode == 0


def test_torch_is_announced_with_its_size(machine: Machine) -> None:
    machine.python("python3.12", "3 12")
    assert "5 GB on disk" in machine.ensure("lerobot,onnx").stderr


def test_pips_noise_about_index_locations_is_not_shown_as_activity(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Collecting numpy\n  Downloading https://index.example/n/numpy.whl (5 MB)\nWARNING: Location 'x'\n")
    assert machine.run(f'latest_activity "{log}"').stdout.strip() == "Downloading numpy.whl (5 MB)"


def test_the_demo_tells_a_typing_error_before_it_installs_anything(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(REPO / "scripts" / "demo"), "--secnds", "5"],
        cwd=tmp_path,
        env={**os.environ, "INFERENCE_SERVICE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean --seconds?" in done.stderr
    assert not (tmp_path / "home").exists()
