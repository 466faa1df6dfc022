"""``rclpy.node``: what a node makes belongs to it and goes with it."""

from __future__ import annotations

import re
import weakref
from functools import partial
from itertools import chain
from types import SimpleNamespace

from rclpy import exceptions
from rclpy._rclpy_pybind11 import InvalidHandle, NodeHandle
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import ROSClock
from rclpy.context import get_default_context
from rclpy.entities import Client, Publisher, Service, Subscription
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.guard_condition import GuardCondition
from rclpy.interfaces import check_is_message, check_is_service, message_class
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FULL_NAME = re.compile(r"(/[A-Za-z_]\w*)+", re.ASCII)


class Node:
    def __init__(
        self,
        node_name,
        *,
        context=None,
        cli_args=None,
        namespace=None,
        use_global_arguments=True,
        enable_rosout=True,
        start_parameter_services=True,
        parameter_overrides=None,
        allow_undeclared_parameters=False,
        automatically_declare_parameters_from_overrides=False,
    ):
        self.context = get_default_context() if context is None else context
        if not self.context.ok():
            raise exceptions.NotInitializedException("cannot create node")
        if enable_rosout or start_parameter_services or cli_args:
            raise NotImplementedError("the simulator has no rosout, parameter services and command line")
        if not _NAME.fullmatch(node_name):
            raise exceptions.InvalidNodeNameException(node_name)
        namespace = namespace or "/"
        if namespace != "/" and not _FULL_NAME.fullmatch(namespace):
            raise exceptions.InvalidNamespaceException(namespace)
        self._name, self._namespace = node_name, namespace
        self._executor = None
        self.handle = NodeHandle(node_name, namespace, self.context.domain_id)
        self.default_callback_group = MutuallyExclusiveCallbackGroup()
        self._made = {kind: [] for kind in ("publishers", "subscriptions", "services", "clients", "guards")}
        self._waitables = []
        self._parameters = {one.name: one.value for one in parameter_overrides or []}
        self._clock = ROSClock()
        event = message_class("rcl_interfaces/msg/ParameterEvent")
        self.create_publisher(event, "/parameter_events", QoSProfile(depth=1000))
        self._follow_clock()

    def _follow_clock(self):
        wanted = self._parameters.get("use_sim_time", False)
        if not Parameter.Type.BOOL.check(wanted):
            raise TypeError("Invalid type for parameter 'use_sim_time' should be bool")
        if wanted:
            self._clock.activate()
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self.create_subscription(message_class("rosgraph_msgs/msg/Clock"), "/clock", self._on_clock, qos)

    def _on_clock(self, message):
        self._clock.set_override(message.clock.sec * 10**9 + message.clock.nanosec)

    # -- for the executor ----------------------------------------------------------------------------------------

    @property
    def executor(self):
        return None if self._executor is None else self._executor()

    @executor.setter
    def executor(self, executor):
        self._executor = weakref.ref(executor)

    def hold(self, stack):
        stack.enter_context(self.handle)
        for entity in list(chain(*self._made.values(), self._waitables)):
            try:
                stack.enter_context(entity.handle)
            except InvalidHandle:  # being destroyed: not waited on
                continue

    def wait(self, seconds):
        found = [guard.callback for guard in self._fired_guards()]
        sources = self.handle.wait(0 if found else seconds)
        events = chain(*(one.event_handlers for kind in ("publishers", "subscriptions") for one in self._made[kind]))
        events = [work for work in (handler.poll() for handler in list(events)) if work is not None]
        expiries = [one.expire for one in list(self._waitables)]
        for expire in expiries:
            expire()
        return [*found, *(guard.callback for guard in self._fired_guards()), *events] + [
            partial(source.handle_one) for source in sources
        ]

    def _fired_guards(self):
        fired = [guard for guard in list(self._made["guards"]) if guard.triggered]
        for guard in fired:
            guard.triggered = False
        return fired

    def wake_waiting(self):
        try:
            with self.handle:
                self.handle.waitset.wake()
        except InvalidHandle:
            return

    # -- what a node makes ---------------------------------------------------------------------------------------

    def create_publisher(self, msg_type, topic, qos_profile, *, callback_group=None, event_callbacks=None):
        with self.handle:
            check_is_message(msg_type)
            events = event_callbacks or PublisherEventCallbacks()
            made = Publisher(self, msg_type, self._resolved(topic), _profile(qos_profile), events)
        return self._keep("publishers", made)

    def create_subscription(
        self, msg_type, topic, callback, qos_profile, *, callback_group=None, event_callbacks=None, raw=False
    ):
        with self.handle:
            check_is_message(msg_type)
            events = event_callbacks or SubscriptionEventCallbacks()
            group = self._group(callback_group)
            name = self._resolved(topic)
            made = Subscription(self, msg_type, name, callback, group, _profile(qos_profile), raw, events)
        return self._keep("subscriptions", made)

    def create_service(self, srv_type, srv_name, callback, *, qos_profile=None, callback_group=None):
        with self.handle:
            check_is_service(srv_type)
            name = self._resolved(srv_name, exceptions.InvalidServiceNameException)
            made = Service(self, srv_type, name, callback, self._group(callback_group), qos_profile)
        return self._keep("services", made)

    def create_client(self, srv_type, srv_name, *, qos_profile=None, callback_group=None):
        with self.handle:
            check_is_service(srv_type)
            name = self._resolved(srv_name, exceptions.InvalidServiceNameException)
            made = Client(self, srv_type, name, qos_profile, self._group(callback_group))
        return self._keep("clients", made)

    def create_guard_condition(self, callback, callback_group=None):
        with self.handle:
            made = GuardCondition(callback, self._group(callback_group), self.wake_waiting)
        return self._keep("guards", made)

    def add_waitable(self, waitable):
        self._waitables.append(waitable)
        self._wake_executor()

    def remove_waitable(self, waitable):
        self._waitables.remove(waitable)
        self._wake_executor()

    def _keep(self, kind, made):
        self._made[kind].append(made)
        self._wake_executor()
        return made

    def _wake_executor(self):
        executor = self.executor
        if executor is not None:
            executor.wake()

    def _group(self, group):
        group = self.default_callback_group if group is None else group
        if not isinstance(group, CallbackGroup):
            raise TypeError(f"callback_group: {group!r}")
        return group

    def _resolved(self, name, error=exceptions.InvalidTopicNameException):
        full = name if name.startswith("/") else f"{self._namespace.rstrip('/')}/{name}"
        if not _FULL_NAME.fullmatch(full):
            raise error(name)
        return full

    def destroy_publisher(self, publisher):
        return self._destroy("publishers", publisher)

    def destroy_subscription(self, subscription):
        return self._destroy("subscriptions", subscription)

    def destroy_service(self, service):
        return self._destroy("services", service)

    def destroy_client(self, client):
        return self._destroy("clients", client)

    def destroy_guard_condition(self, guard):
        return self._destroy("guards", guard)

    def _destroy(self, kind, entity):
        if entity not in self._made[kind]:
            return False
        self._made[kind].remove(entity)
        entity.destroy()
        self._wake_executor()
        return True

    def destroy_node(self):
        for kind, made in self._made.items():
            while made:
                self._destroy(kind, made[0])
        self.handle.destroy_when_not_in_use()
        self._wake_executor()

    # -- the graph -----------------------------------------------------------------------------------------------

    def get_name(self):
        return self._name

    def get_namespace(self):
        return self._namespace

    def get_clock(self):
        return self._clock

    def get_node_names_and_namespaces(self):
        with self.handle:
            return self.handle.node_names()

    def get_publishers_info_by_topic(self, topic_name, no_mangle=False):
        with self.handle:
            return self.handle.endpoints_info(self._resolved(topic_name), True)

    def get_subscriptions_info_by_topic(self, topic_name, no_mangle=False):
        with self.handle:
            return self.handle.endpoints_info(self._resolved(topic_name), False)

    def get_logger(self):
        return SimpleNamespace(name=self._name)


def _profile(qos_or_depth):
    if isinstance(qos_or_depth, QoSProfile):
        return qos_or_depth
    if isinstance(qos_or_depth, int):
        if qos_or_depth < 0:
            raise ValueError("history depth must be greater than or equal to zero")
        return QoSProfile(depth=qos_or_depth)
    raise TypeError(f"Expected QoSProfile or int, but received {type(qos_or_depth)!r}")
