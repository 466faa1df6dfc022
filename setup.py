"""The one compiled part, which pyproject.toml cannot name. It is optional: numpy does the same, slower."""

from pathlib import PurePath

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildLibrary(build_ext):
    """What it builds is loaded by ctypes and knows nothing of Python, so its name is not that of a module."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{PurePath(*fullname.split('.'))}.ctypes.so"


PIXELS = Extension(
    "inference_service.core.pixels", ["inference_service/core/pixels.c"], extra_compile_args=["-O3"], optional=True
)

setup(ext_modules=[PIXELS], cmdclass={"build_ext": BuildLibrary})
