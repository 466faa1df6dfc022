"""The ROS 2 package robot_config, for colcon. The sources are the repository's own (a link beside this file)."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "robot_config"
HERE = Path(__file__).resolve().parent


def files(pattern: str) -> list[str]:
    """Paths of data files, relative to here."""
    return sorted(str(path.relative_to(HERE)) for path in HERE.glob(pattern))


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["robots/*.yaml", "models/*", "launch/*.py"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files(f"{NAME}/launch/*.launch.py")),
        (f"share/{NAME}/config/robots", files(f"{NAME}/robots/*.yaml")),
    ],
    zip_safe=False,
    license="Apache-2.0",
)
