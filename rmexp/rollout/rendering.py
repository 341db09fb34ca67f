"""Pictures of a MuJoCo scene, taken beside the simulation and never through it.

robosuite's own camera path runs a forward pass whenever it creates a context, which changes the
episode that follows; reading the scene changes nothing. Contexts are made at the first picture.
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

import numpy as np

from rmexp.errors import RolloutError

NEEDS_EGL = (
    "pictures without a display need EGL: install the system package libegl1 "
    "(Debian/Ubuntu: apt-get install libegl1), or set MUJOCO_GL=osmesa with libosmesa6, "
    "or run without videos and image observations"
)


def choose_backend() -> None:
    """Pick EGL where there is no display; has to run before mujoco is imported for the first time.

    An environment variable that is already set wins.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


class SceneCamera:
    """Takes pictures of one compiled model; make a new one when the model was compiled anew.

    fast: no reflections, small shadow map, no oversampling. Three to four times quicker on a CPU
    and visibly plainer: for videos, and for image sets that were recorded that way.
    """

    def __init__(self, model: Any, data: Any, *, fast: bool) -> None:
        self._model = model
        self._data = data
        self._renderers: dict[tuple[int, int], Any] = {}
        if fast:
            model.mat_reflectance[:] = 0.0
            model.vis.quality.shadowsize = 1024
            model.vis.quality.offsamples = 0

    @property
    def camera_names(self) -> list[str]:
        return [self._model.camera(i).name for i in range(self._model.ncam)]

    def picture(self, *, height: int, width: int, camera: str) -> np.ndarray:
        """(H, W, 3) uint8, first row at the top."""
        if camera not in self.camera_names:
            raise RolloutError(f"no camera {camera!r}; the scene has {self.camera_names}")
        size = (height, width)
        if size not in self._renderers:
            self._renderers[size] = self._new_renderer(height, width)
        renderer = self._renderers[size]
        renderer.update_scene(self._data, camera=camera, scene_option=_visual_geometry())
        return renderer.render()

    def _new_renderer(self, height: int, width: int) -> Any:
        import mujoco

        buffer = self._model.vis.global_
        buffer.offwidth = max(buffer.offwidth, width)
        buffer.offheight = max(buffer.offheight, height)
        try:
            return mujoco.Renderer(self._model, height, width)
        except Exception as error:  # each back end fails in its own way when the system lacks it
            raise RolloutError(f"{NEEDS_EGL} ({type(error).__name__}: {error})") from error

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def _visual_geometry() -> Any:
    """Without group 0, in which robosuite keeps its collision shapes."""
    import mujoco

    option = cast("Any", mujoco).MjvOption()
    option.geomgroup[0] = 0
    return option
