"""``rclpy.callback_groups``: a mutually exclusive group runs one callback at a time."""

from __future__ import annotations

import weakref


class CallbackGroup:
    def __init__(self):
        self.entities = set()

    def add_entity(self, entity):
        self.entities.add(weakref.ref(entity))


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    pass


class ReentrantCallbackGroup(CallbackGroup):
    pass
