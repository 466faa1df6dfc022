"""The ROS 2 package inference_service, for colcon. The sources are the repository's own (a link beside this file)."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "inference_service"
HERE = Path(__file__).resolve().parent


def files(pattern: str, start: Path = HERE) -> list[str]:
    """Paths of data files, relative to ``start``."""
    return sorted(str(path.relative_to(start)) for path in HERE.glob(pattern) if path.is_file())


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: [*files(f"{NAME}/wire/msg/**/*", HERE / NAME), "launch/*.py"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files(f"{NAME}/launch/*.launch.py")),
        (f"lib/{NAME}", files("lib/*")),
    ],
    # The same as in pyproject.toml.
    entry_points={
        "console_scripts": ["inference-service = inference_service.__main__:main"],
        "inference_service.backends": [
            "onnx = inference_service.backends.onnx:load",
            "lerobot = inference_service.backends.lerobot_torch:load",
            "ascend_om = inference_service.backends.compiled.ascend:load",
            "ascend_om_3403 = inference_service.backends.compiled.sd3403:load",
            "rknn = inference_service.backends.compiled.rknn:load",
        ],
    },
    zip_safe=False,
    license="Apache-2.0",
)
