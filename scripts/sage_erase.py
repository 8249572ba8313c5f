"""The extension's entry into AUTOMATIC1111's Stable Diffusion WebUI, Forge and Forge Neo: a tab with the
panel.

Nothing else belongs here: the panel is sage_core/panel, and what is asked of the host is below.
"""

import os
import sys
from pathlib import Path

from modules import script_callbacks

ROOT = str(Path(__file__).resolve().parents[1])
TITLE, TAB = "Erase concepts", "sage_erase"
FOLDER = "sage"  # below the host's folder of LoRAs
built = {}  # the routes of the latest page


class WebUI:
    """What the panel asks of the host, in the words that all three have."""

    title = "the WebUI"
    keeps = False  # the worker ends after each run, so that the host has all of the memory

    def __init__(self):
        self.holding = False

    def loaded(self):
        """The checkpoint that is loaded, or, before the first picture, the one that is chosen."""
        from modules import sd_models

        model = getattr(sd_models.model_data, "sd_model", None)
        info = getattr(model, "sd_checkpoint_info", None)
        if info is None:
            try:
                info = sd_models.select_checkpoint()
            except Exception:  # there is none, which each host says in its own way
                return None
        path = getattr(info, "filename", None)
        return Path(path) if path and os.path.exists(path) else None

    def before(self):
        """The host draws nothing while a model is trained, and its own leaves the graphics memory."""
        from modules import devices, sd_models
        from modules.call_queue import queue_lock

        queue_lock.acquire()
        self.holding = True
        if getattr(sd_models.model_data, "sd_model", None) is not None:
            sd_models.unload_model_weights()
        devices.torch_gc()

    def after(self):
        """The host's model comes back."""
        from modules import sd_models
        from modules.call_queue import queue_lock

        try:
            model = getattr(sd_models.model_data, "sd_model", None)
            if model is not None:
                sd_models.send_model_to_device(model)
        finally:
            if self.holding:
                self.holding = False
                queue_lock.release()

    def saved(self, path):
        """The host's list of LoRAs is read again, so that <lora:NAME:1> works at once."""
        networks = sys.modules.get("networks")
        if networks is not None and hasattr(networks, "list_available_networks"):
            networks.list_available_networks()


def places():
    """The host's folders."""
    from modules import paths, sd_models, shared

    from sage_core.panel.places import Places

    loras = getattr(shared.cmd_opts, "lora_dir", None) or os.path.join(paths.models_path, "Lora")
    named = [getattr(shared.cmd_opts, "ckpt_dir", None), sd_models.model_path]
    models = tuple(Path(folder) for folder in named if folder and os.path.isdir(folder))
    return Places(Path(paths.data_path) / "sage-panel", Path(loras) / FOLDER, models, WebUI())


def on_ui_tabs():
    if ROOT not in sys.path:  # some hosts take it out again once the scripts are loaded
        sys.path.append(ROOT)
    from sage_core.panel.hosted import tab

    page, built["routes"] = tab(places())
    return [(page, TITLE, TAB)]


def on_app_started(_, app):
    if built.get("routes") is not None:
        built["routes"].put_into(app)


script_callbacks.on_ui_tabs(on_ui_tabs)
script_callbacks.on_app_started(on_app_started)
