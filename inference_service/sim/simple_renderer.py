"""Camera pictures without OpenGL: the model's boxes and cylinders as shaded polygons, far ones first (painter's order).

Reads geom poses, colours and camera matrices from the same MuJoCo model as the OpenGL renderer, so both show the same
scene from the same place. Faces that touch or pass through each other may be drawn in the wrong order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference_service.core.batch import UInt8
from inference_service.sim.gl import load_mujoco, pose
from inference_service.sim.pictures import DEFAULT_SIZE

Float64 = NDArray[np.float64]
Shape = tuple[Float64, list[tuple[int, ...]]]
"""Vertices (n, 3) in the geom's frame and faces as vertex indices, counter-clockwise seen from outside."""

_SIDES = 16
_NEAR_M = 0.01
_AMBIENT = 0.42
_DIFFUSE = 0.70
_SKY = (196, 206, 217)


def _box(half: Float64) -> Shape:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64) * half
    faces: list[tuple[int, ...]] = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, faces


def _cylinder(radius: float, half_length: float) -> Shape:
    angle = np.arange(_SIDES) * (2 * math.pi / _SIDES)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(_SIDES, half_length)], axis=1)
    vertices = np.concatenate([ring, ring * (1, 1, -1)])
    sides = [(i, i + _SIDES, (i + 1) % _SIDES + _SIDES, (i + 1) % _SIDES) for i in range(_SIDES)]
    return vertices, [tuple(range(_SIDES)), tuple(reversed(range(_SIDES, 2 * _SIDES))), *sides]


@dataclass(frozen=True)
class _Mesh:
    """Every face of the model in flat arrays. Faces are padded to one length by repeating their last vertex."""

    vertices: Float64
    """(V, 3) in the frame of each vertex's geom."""
    vertex_geom: NDArray[np.int64]
    faces: NDArray[np.int64]
    """(F, K) indices into ``vertices``."""
    weights: Float64
    """(F, K) what each vertex counts for the centre of its face; 0 for padding."""
    colours: Float64
    """(F, 3) unshaded, 0 to 255."""
    ground: NDArray[np.bool_]
    """(F,) faces of the table and what lies flat on it: drawn first, in the model's order, from above only."""


def _build_mesh(mujoco: Any, model: Any) -> _Mesh:
    vertices: list[Float64] = []
    owners: list[NDArray[np.int64]] = []
    faces: list[NDArray[np.int64]] = []
    weights: list[Float64] = []
    colours: list[Float64] = []
    ground: list[bool] = []
    first = 0
    for geom in range(model.ngeom):
        shape = _geom_shape(mujoco.mjtGeom, model, geom)
        if shape is None:
            continue
        vertices.append(shape[0])
        owners.append(np.full(len(shape[0]), geom))
        material = int(model.geom_matid[geom])
        rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
        for face in shape[1]:
            padding = _SIDES - len(face)
            faces.append(np.array(face + face[-1:] * padding) + first)
            weights.append(np.array([1 / len(face)] * len(face) + [0.0] * padding))
            colours.append(np.asarray(rgba[:3], np.float64) * 255)
            ground.append(int(model.geom_bodyid[geom]) == 0)
        first += len(shape[0])
    return _Mesh(
        vertices=np.concatenate(vertices),
        vertex_geom=np.concatenate(owners),
        faces=np.stack(faces),
        weights=np.stack(weights),
        colours=np.stack(colours),
        ground=np.array(ground, bool),
    )


def _geom_shape(types: Any, model: Any, geom: int) -> Shape | None:
    """Boxes exactly, cylinders and capsules as prisms; other kinds are not drawn."""
    size = np.asarray(model.geom_size[geom], np.float64)
    kind = int(model.geom_type[geom])
    if kind == types.mjGEOM_BOX:
        return _box(size)
    if kind == types.mjGEOM_CYLINDER:
        return _cylinder(size[0], size[1])
    if kind == types.mjGEOM_CAPSULE:
        return _cylinder(size[0], size[1] + size[0] / 2)
    return None


class SimpleRenderer:
    """Draws with Pillow, on any thread; needs neither OpenGL nor a display."""

    name = "simple"

    def __init__(self, model: Any, size: tuple[int, int] = DEFAULT_SIZE) -> None:
        self._mujoco = load_mujoco()
        self._model = model
        self._data = self._mujoco.MjData(model)
        self._height, self._width = size
        self._mesh = _build_mesh(self._mujoco, model)
        lamp = np.asarray(model.light_dir[0] if model.nlight else (0.0, 0.0, -1.0), np.float64)
        self._to_lamp = -lamp / np.linalg.norm(lamp)

    def render(self, qpos: NDArray[np.float64], camera: str) -> UInt8:
        """See :class:`~inference_service.sim.renderer.Renderer`."""
        camera_id = self._model.camera(camera).id
        pose(self._mujoco, self._model, self._data, qpos)
        picture = Image.new("RGB", (self._width, self._height), _SKY)
        self._paint(ImageDraw.Draw(picture), camera_id)
        return np.asarray(picture)

    def close(self) -> None:
        """Nothing to release."""

    def _paint(self, draw: ImageDraw.ImageDraw, camera_id: int) -> None:
        mesh, eye = self._mesh, self._data.cam_xpos[camera_id]
        world = self._world_vertices()
        local = (world - eye) @ self._data.cam_xmat[camera_id].reshape(3, 3)
        corners = world[mesh.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        gaze = np.einsum("fk,fkc->fc", mesh.weights, corners) - eye
        depth = -local[:, 2][mesh.faces]
        visible = (np.einsum("ij,ij->i", normals, gaze) < 0) & (depth.max(axis=1) > _NEAR_M)
        visible &= ~mesh.ground | (normals[:, 2] > 0.5)
        order = self._order(np.flatnonzero(visible), np.linalg.norm(gaze, axis=1))
        focal = self._height / 2 / math.tan(math.radians(float(self._model.cam_fovy[camera_id])) / 2)
        outlines = self._project(local[mesh.faces[order]], focal).reshape(len(order), -1).tolist()
        for place in np.flatnonzero(depth[order].min(axis=1) <= _NEAR_M):
            whole = _clip_near(local[mesh.faces[order[place]]])
            outlines[place] = self._project(whole, focal).ravel().tolist()
        for outline, colour in zip(outlines, self._shade(normals[order], mesh.colours[order]), strict=True):
            draw.polygon(outline, fill=tuple(colour))

    def _project(self, points: Float64, focal: float) -> Float64:
        """(…, 3) in camera coordinates to (…, 2) pixels; points behind the near plane come out wrong but finite."""
        scale = focal / np.maximum(-points[..., 2], _NEAR_M)
        x = points[..., 0] * scale + self._width / 2
        y = self._height / 2 - points[..., 1] * scale
        return np.asarray(np.stack([x, y], axis=-1), np.float64)

    def _world_vertices(self) -> Float64:
        owner = self._mesh.vertex_geom
        rotation = self._data.geom_xmat[owner].reshape(-1, 3, 3)
        turned = np.einsum("nij,nj->ni", rotation, self._mesh.vertices)
        return np.asarray(turned + self._data.geom_xpos[owner], np.float64)

    def _order(self, faces: NDArray[np.int64], distance: Float64) -> NDArray[np.int64]:
        ground = self._mesh.ground[faces]
        standing = faces[~ground]
        far_first = standing[np.argsort(-distance[standing], kind="stable")]
        return np.concatenate([faces[ground], far_first])

    def _shade(self, normals: NDArray[np.floating[Any]], colours: Float64) -> list[list[int]]:
        light = _AMBIENT + _DIFFUSE * np.clip(normals @ self._to_lamp, 0.0, 1.0)
        shaded: list[list[int]] = np.clip(colours * light[:, None], 0, 255).astype(int).tolist()
        return shaded


def _clip_near(points: Float64) -> Float64:
    """The part of a polygon (n, 3) in camera coordinates that lies before the near plane (Sutherland-Hodgman)."""
    kept: list[Float64] = []
    for current, following in zip(points, np.roll(points, -1, axis=0), strict=True):
        inside, next_inside = -current[2] > _NEAR_M, -following[2] > _NEAR_M
        if inside:
            kept.append(current)
        if inside != next_inside:
            share = (-_NEAR_M - current[2]) / (following[2] - current[2])
            kept.append(current + share * (following - current))
    return np.array(kept)
