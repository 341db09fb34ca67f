"""robosuite as an Environment; the only file that imports it.

Every episode starts from its own seed: the state of the environment's one generator is overwritten
in place (the samplers hold references to it) and the model is built anew, so that an episode does
not depend on what the process simulated before.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from rmexp.errors import RolloutError
from rmexp.rollout.environments import Observation
from rmexp.rollout.rendering import NEEDS_EGL, SceneCamera, choose_backend
from rmexp.rollout.robosuite_arguments import (
    DEFAULT_IMAGE_SIZE,
    image_sizes,
    simulator_arguments,
)

OBJECT_STATE = "object-state"  # robosuite's name for what robomimic files call "object"
IMAGE_SUFFIX = "_image"

# (what the message of a failed import mentions, what to install)
SYSTEM_PACKAGES = (
    (r"libEGL|egl", NEEDS_EGL),
    (r"libGL\b|libGL\.", "install the system package libgl1 (opencv needs it)"),
    (r"libgthread|libglib", "install the system package libglib2.0-0 (opencv needs it)"),
    (r"evdev", "install a C compiler (gcc), then  pip install evdev  (it has no wheel)"),
    (r"numpy|_ARRAY_API|dtype size", "robosuite 1.5 needs numpy < 2: pip install 'rmexp[sim]'"),
)


class RobosuiteEnvironment:
    """One robosuite task that `env_args` of a demonstration file describe.

    obs_keys: names as in robomimic files; `object` is robosuite's `object-state`, and
    `<camera>_image` is rendered in the size that `env_args` name.
    """

    def __init__(self, env_args: Mapping[str, Any], obs_keys: Sequence[str]) -> None:
        self.name: str = env_args["env_name"]
        self._obs_keys = list(obs_keys)
        self._cameras = [key.removesuffix(IMAGE_SUFFIX) for key in obs_keys if _is_image(key)]
        arguments = simulator_arguments(env_args)
        self._image_sizes = image_sizes(env_args)
        self._fast_rendering = bool(env_args.get("fast_rendering", not self._cameras))
        self._env = _make(self.name, arguments)
        self._scene: SceneCamera | None = None
        self._seed: int | None = None
        self._step = 0
        self._check_obs_keys()

    @property
    def action_dim(self) -> int:
        return int(self._env.action_dim)

    def reset(self, seed: int) -> Observation:
        self._forget_scene()
        self._seed, self._step = seed, 0
        self._env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        try:
            return self._observe(self._env.reset())
        except RolloutError:
            raise
        except Exception as error:
            raise self._failure("reset failed", error) from error

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if self._seed is None:
            raise self._failure("reset(seed) comes before the first step")
        if action.shape != (self.action_dim,):
            raise self._failure(f"the action has shape {action.shape}, not ({self.action_dim},)")
        if not np.isfinite(action).all():
            raise self._failure(f"the action is not finite: {action.tolist()}")
        self._step += 1
        try:
            raw, reward, _, _ = self._env.step(action)
            success = bool(self._env._check_success())
            return self._observe(raw), float(reward), False, {"success": success}
        except RolloutError:
            raise
        except Exception as error:
            raise self._failure("the simulator failed", error) from error

    def render(self, *, height: int, width: int, camera: str | None) -> np.ndarray:
        scene = self._open_scene()
        names = scene.camera_names
        usual = next((view for view in (*self._image_sizes, "agentview") if view in names), None)
        return scene.picture(height=height, width=width, camera=camera or usual or names[0])

    def state(self) -> np.ndarray:
        """Simulator state as robomimic stores it: (1 + positions + velocities,) float64."""
        return np.asarray(self._env.sim.get_state().flatten(), dtype=np.float64)

    def model_xml(self) -> str:
        """The compiled scene; assets are named from `robosuite/` on, not from this machine's root.

        robosuite's own `edit_model_xml` finds them again when such a file is replayed.
        """
        return _without_local_paths(self._env.sim.model.get_xml())

    def close(self) -> None:
        self._forget_scene()
        self._env.close()

    def _observe(self, raw: Mapping[str, np.ndarray]) -> Observation:
        return {
            key: self._image(key)
            if _is_image(key)
            else np.asarray(raw[_robosuite_key(key)], dtype=np.float32).reshape(-1)
            for key in self._obs_keys
        }

    def _image(self, key: str) -> np.ndarray:
        camera = key.removesuffix(IMAGE_SUFFIX)
        size = (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
        height, width = self._image_sizes.get(camera, size)
        return self._open_scene().picture(height=height, width=width, camera=camera)

    def _open_scene(self) -> SceneCamera:
        if self._scene is None:
            sim = self._env.sim
            self._scene = SceneCamera(sim.model._model, sim.data._data, fast=self._fast_rendering)
        return self._scene

    def _forget_scene(self) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _check_obs_keys(self) -> None:
        env = self._env
        states = {f"{modality}-state" for modality in env.observation_modalities}
        views = {f"{camera}{IMAGE_SUFFIX}" for camera in env.sim.model.camera_names}
        offered = {_file_key(key) for key in {*env.observation_names, *states}} | views
        missing = [key for key in self._obs_keys if key not in offered]
        if missing:
            self.close()
            raise RolloutError(
                f"{self.name}: robosuite {_version()} does not observe {', '.join(missing)}; it "
                f"observes {', '.join(sorted(offered))}. Train on a subset: dataset.obs_keys=[...]"
            )

    def _failure(self, what: str, error: Exception | None = None) -> RolloutError:
        cause = f" ({type(error).__name__}: {error})" if error is not None else ""
        return RolloutError(f"{self.name}, seed {self._seed}, step {self._step}: {what}{cause}")


def _is_image(key: str) -> bool:
    return key.endswith(IMAGE_SUFFIX)


def _robosuite_key(key: str) -> str:
    return OBJECT_STATE if key == "object" else key


def _file_key(key: str) -> str:
    return "object" if key == OBJECT_STATE else key


def _make(name: str, kwargs: dict[str, Any]) -> Any:
    robosuite = _import_robosuite()
    known = sorted(robosuite.ALL_ENVIRONMENTS)
    if name not in known:
        raise RolloutError(
            f"robosuite {robosuite.__version__} has no environment {name!r}; it has "
            f"{', '.join(known)}"
        )
    try:
        return robosuite.make(
            name,
            **kwargs,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            ignore_done=True,
            hard_reset=True,
            seed=0,
        )
    except Exception as error:  # robosuite checks by assert, KeyError, ValueError and TypeError
        raise RolloutError(
            f"robosuite {robosuite.__version__} cannot build {name} from the file's env_kwargs "
            f"({type(error).__name__}: {error})"
        ) from error


def _import_robosuite() -> ModuleType:
    """Import it without its five warning lines; say what a failing system lacks."""
    choose_backend()
    logging.getLogger("robosuite_logs").disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import robosuite
    except Exception as error:  # a missing library shows as ImportError, OSError, AttributeError
        raise RolloutError(
            f"robosuite cannot be imported ({type(error).__name__}: {error}); {_remedy(str(error))}"
        ) from error
    return robosuite


def _remedy(message: str) -> str:
    """What to install when an import fails with `message`."""
    return next(
        (remedy for mark, remedy in SYSTEM_PACKAGES if re.search(mark, message)),
        "reinstall in a fresh virtual environment: pip install 'rmexp[sim]'",
    )


def _version() -> str:
    return str(_import_robosuite().__version__)


def _without_local_paths(xml: str) -> str:
    return re.sub(r'(file|dir)="[^"]*/(robosuite/[^"]*)"', r'\1="\2"', xml)
