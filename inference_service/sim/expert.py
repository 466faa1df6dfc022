"""Who shows the demo policy what to do: closed-form inverse kinematics of the packaged arm, from ground truth.

All arrays are batches: the leading axis counts situations. Lengths are those of ``robot_config/models/so101.xml``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SHOULDER_M = (0.028, 0.116)
"""Radius from the pan axis and height of joint 2."""
UPPER_M = 0.116
FOREARM_M = 0.135
HAND_M = 0.141
"""From joint 4 to the finger tips."""
PITCH_RAD = 1.2
"""How far the hand points down at the cube."""
JAW_RAD = 0.6

HOVER_M = 0.010
"""The tips' height above the cube's top: clear of it."""
CLEARANCE_M = 0.035
"""How much higher they travel while the cube is not below them…"""
CLEARANCE_SLOPE = 0.8
CLEARANCE_FROM_M = 0.012
"""…rising by this slope with the horizontal distance beyond this."""

GAIN_HZ = 3.0
"""Of what is left, how much is done in a second."""
TOP_SPEED = 0.9
"""rad/s of the fastest joint; the others keep pace with it."""


def tips(joints: Float64) -> Float64:
    """(N, 3) metres: where the middle of the finger tips is at joint positions (N, 6) in rad."""
    lift, fore, hand = joints[:, 1], joints[:, 1] + joints[:, 2], joints[:, 1:4].sum(1)
    radius = SHOULDER_M[0] + UPPER_M * np.sin(lift) + FOREARM_M * np.cos(fore) + HAND_M * np.cos(hand)
    height = SHOULDER_M[1] + UPPER_M * np.cos(lift) - FOREARM_M * np.sin(fore) - HAND_M * np.sin(hand)
    return np.stack([radius * np.cos(joints[:, 0]), radius * np.sin(joints[:, 0]), height], axis=1)


def reach(places: Float64) -> Float64:
    """Joint positions (N, 6) in rad that bring the tips to ``places`` (N, 3) metres, elbow up, the hand at PITCH_RAD.

    A place out of reach gets the arm stretched towards it.
    """
    radius = np.hypot(places[:, 0], places[:, 1]) - HAND_M * np.cos(PITCH_RAD) - SHOULDER_M[0]
    height = places[:, 2] + HAND_M * np.sin(PITCH_RAD) - SHOULDER_M[1]
    span = np.clip(np.hypot(radius, height), 1e-6, UPPER_M + FOREARM_M)
    at_shoulder = (UPPER_M**2 + span**2 - FOREARM_M**2) / (2 * UPPER_M * span)
    at_elbow = (UPPER_M**2 + FOREARM_M**2 - span**2) / (2 * UPPER_M * FOREARM_M)
    upper = np.arctan2(height, radius) + np.arccos(np.clip(at_shoulder, -1, 1))
    fore = np.pi - np.arccos(np.clip(at_elbow, -1, 1)) - upper
    lift = np.pi / 2 - upper
    zero = np.zeros(len(places))
    bearing = np.arctan2(places[:, 1], places[:, 0])
    return np.stack([bearing, lift, fore - lift, PITCH_RAD - fore, zero, zero + JAW_RAD], axis=1)


def advance(joints: Float64, cube_tops: Float64, dt: float) -> Float64:
    """Joint targets (N, 6) in rad ``dt`` seconds on, from joint positions (N, 6) towards cubes, by the centres of their
    top faces (N, 3) in metres. From beside, the tips come over the cube before they come down to it."""
    aside = np.hypot(*(tips(joints) - cube_tops)[:, :2].T)
    above = HOVER_M + np.clip(CLEARANCE_SLOPE * (aside - CLEARANCE_FROM_M), 0.0, CLEARANCE_M)
    left = reach(cube_tops + above[:, None] * np.array([0.0, 0.0, 1.0])) - joints
    fastest = np.abs(left).max(1, keepdims=True)
    share = np.minimum(GAIN_HZ * dt, TOP_SPEED * dt / np.maximum(fastest, 1e-9))
    return np.asarray(joints + share * left, np.float64)


def demonstrate(joints: Float64, cube_tops: Float64, ticks: int, dt: float) -> Float64:
    """(N, ticks, 6) joint targets in rad for the next ``ticks`` periods of ``dt`` seconds."""
    path = []
    for _ in range(ticks):
        joints = advance(joints, cube_tops, dt)
        path.append(joints)
    return np.stack(path, axis=1)
