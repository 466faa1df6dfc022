"""``rclpy.exceptions``: those that the simulator raises."""

from __future__ import annotations

from rclpy._rclpy_pybind11 import InvalidHandle


class NotInitializedException(Exception):
    def __init__(self, *args):
        super().__init__("rclpy.init() has not been called", *args)


class NameValidationException(Exception):
    pass


class InvalidNamespaceException(NameValidationException):
    pass


class InvalidNodeNameException(NameValidationException):
    pass


class InvalidTopicNameException(NameValidationException):
    pass


class InvalidServiceNameException(NameValidationException):
    pass


class ParameterAlreadyDeclaredException(Exception):
    pass


class ParameterNotDeclaredException(Exception):
    pass


__all__ = ["InvalidHandle", "InvalidNamespaceException", "InvalidNodeNameException", "InvalidServiceNameException"]
__all__ += ["InvalidTopicNameException", "NotInitializedException", "ParameterNotDeclaredException"]
