"""A model is trained on its own noise schedule, a zero-terminal-SNR one above all (Lin et al., arXiv
2305.08891).
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sage_core import ErasureSpec, SageError, erase, load_model
from sage_core.diffusion import schedule
from sage_core.diffusion.networks import added_conditions
from sage_core.jobs.names import is_of
from sage_core.lora.file import read_lora
from sage_core.lora.metadata import SCHEDULE_KEY
from sage_core.methods.table import METHODS

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
MARKS = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
SPEC = ErasureSpec("castle", steps=2, rank=2, seed=3, resolution=64, search=False)


@pytest.fixture(scope="module")
def sdxl():
    return tiny.original(tiny.make("sdxl"))


@pytest.fixture(scope="module")
def zero_snr(sdxl):
    """A thin SDXL that predicts v and ends in pure noise, as NoobAI V-Pred does."""
    return load_model(sdxl | MARKS)


def folder(tmp_path, **changes):
    path = tiny.folder(tiny.make("sd1"), tmp_path / "model")
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    "config",
    [
        SD,
        SD | {"rescale_betas_zero_snr": True},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(0.001, 0.01, 1000).tolist()},
    ],
)
def test_a_folder_s_schedule_is_that_of_diffusers(tmp_path, config):
    expected = DDIMScheduler(**config).alphas_cumprod
    alphas = load_model(folder(tmp_path, prediction_type="v_prediction", **config)).alphas
    torch.testing.assert_close(alphas, expected, rtol=2e-3, atol=1e-7)
    assert alphas.min() > 0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"beta_schedule": "sigmoid"}, "'sigmoid' is not known"),
        ({"num_train_timesteps": 50}, "50 timesteps"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEuler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch"),
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"rescale_betas_zero_snr": True}, "choose v-prediction"),
        ({"trained_betas": [0.1]}, "1 timesteps"),
        ({"trained_betas": [2.0] * 1000}, "does not fall"),
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, changes, words):
    with pytest.raises(SageError, match=words) as caught:
        load_model(folder(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "alphas, words",
    [
        (torch.linspace(0.99, 0.01, 50), "50 timesteps"),
        (torch.full((1000,), float("nan")), "does not fall"),
        (torch.linspace(0.1, 0.9, 1000), "does not fall"),
        (schedule.zero_terminal_snr(schedule.standard()), "choose v-prediction"),
    ],
)
def test_a_host_s_schedule_is_checked(alphas, words):
    with pytest.raises(SageError, match=words):
        load_model("demo", alphas=alphas)


@pytest.mark.parametrize("key", ["edm_mean", "edm_vpred.sigma_max"])
def test_models_of_continuous_noise_are_refused(sdxl, key):
    with pytest.raises(SageError, match="EDM"):
        load_model(sdxl | {key: torch.ones(1)})


def test_the_marker_counts_only_where_v_is_predicted(sdxl):
    assert load_model(sdxl | {"ztsnr": torch.zeros(0)}).schedule == ""
    assert load_model(sdxl | {"v_pred": torch.zeros(0)}).schedule == ""
    assert load_model(sdxl | MARKS).schedule == schedule.ZERO_TERMINAL


def test_a_host_that_passes_the_schedule_on_trains_the_same_as_the_file(sdxl, zero_snr):
    """Through sigma in float32, as a host holds it, and with another smallest value."""
    for smallest in (schedule.TERMINAL, 2**-24):
        alphas = zero_snr.alphas.double()
        alphas[-1] = smallest
        sigmas = ((1 - alphas) / alphas).sqrt().float()
        model = load_model(sdxl, prediction="v", alphas=1 / (1 + sigmas.double() ** 2))
        assert torch.equal(model.alphas, zero_snr.alphas) and (model.sampling, model.fingerprint) == (
            zero_snr.sampling,
            zero_snr.fingerprint,
        )
    sigmas = ((1 - schedule.standard()) / schedule.standard()).sqrt()
    assert torch.equal(load_model("demo", alphas=1 / (1 + sigmas**2)).alphas, load_model("demo").alphas)


def test_predictions_are_those_of_diffusers_scheduler(zero_snr):
    """Noise from v, and from it the picture, down to the last timestep, where only v can say what it is."""
    reference = DDIMScheduler(
        **SD,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    reference.set_timesteps(1000)
    torch.manual_seed(0)
    z, cond = torch.randn(1, 4, 8, 8), zero_snr.encode(["a castle"])
    for t in (999, 998, 900, 500, 0):
        time = torch.tensor([t])
        with torch.no_grad():
            v = zero_snr.unet(
                z, time, cond.hidden, added_cond_kwargs=added_conditions(cond, zero_snr.pixels)
            ).sample
            eps = zero_snr.predict_noise(z, time, cond)
        a = zero_snr.alphas[t]
        expected = reference.step(v, t, z).pred_original_sample
        torch.testing.assert_close((z - (1 - a).sqrt() * eps) / a.sqrt(), expected, atol=3e-3, rtol=1e-3)


def test_the_bank_walks_as_diffusers_own_solver_does(zero_snr):
    solver = DPMSolverMultistepScheduler(
        **SD,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    solver.set_timesteps(6)
    ours = zero_snr.scheduler(6)
    assert ours.timesteps.tolist() == solver.timesteps.tolist() and ours.timesteps[0] == 999
    torch.testing.assert_close(ours.sigmas[1:], solver.sigmas[1:], rtol=1e-3, atol=0)
    pixels, zero_snr.pixels = zero_snr.pixels, 64
    z, cond = zero_snr.noise([1]), zero_snr.encode(["a castle"])
    expected = z
    with torch.no_grad():
        for t in solver.timesteps:
            v = zero_snr.unet(
                expected, t, cond.hidden, added_cond_kwargs=added_conditions(cond, zero_snr.pixels)
            ).sample
            expected = solver.step(v, t, expected).prev_sample
    drawn = zero_snr.sample(cond, [1], 6, guidance=1.0)
    zero_snr.pixels = pixels
    torch.testing.assert_close(drawn, expected, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_finite_where_the_last_timestep_is_pure_noise(zero_snr, method):
    """EAP and AGE weigh by (1 - abar) / abar, which is largest there."""
    erasure = erase(
        zero_snr, dataclasses.replace(SPEC, method=method, rank=None if METHODS[method].closed else 2)
    )
    erasure.adapter.remove()
    assert all(torch.isfinite(v).all() for v in erasure.adapter.tensors().values())
    assert all(np.isfinite(v) for step in erasure.losses for v in step.values())


def saved(model, path):
    erasure = erase(model, SPEC)
    erasure.adapter.remove()
    return read_lora(erasure.save(path, model))


def test_the_same_weights_sampled_in_another_way_are_another_erasure(sdxl, zero_snr, tmp_path):
    plain, velocity = load_model(sdxl), load_model(sdxl, prediction="v")
    models = {"eps": plain, "v": velocity, "zero": zero_snr}
    assert len({m.fingerprint for m in models.values()}) == 1
    for name, model in models.items():
        file = saved(model, tmp_path / f"{name}.safetensors")
        assert [other for other, m in models.items() if is_of(file, SPEC.recipe(), m)] == [name]
        assert file.metadata["modelspec.prediction_type"] == ("epsilon" if name == "eps" else "v")
        assert file.metadata.get(SCHEDULE_KEY) == (schedule.ZERO_TERMINAL if name == "zero" else None)


def test_a_saved_state_of_another_schedule_is_refused(sdxl, zero_snr, tmp_path):
    def stop(event):
        if event.phase == "erase":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        erase(zero_snr, SPEC, stop, state=tmp_path / "x.resume", save_every=0)
    with pytest.raises(SageError, match="another erasure or model"):
        erase(load_model(sdxl, prediction="v"), SPEC, state=tmp_path / "x.resume", resume=True)


IN_COMFY = """
import json, sys
sys.argv = sys.argv[:1] + ["--cpu"]
sys.path.insert(0, ".")
import comfy.options
comfy.options.enable_args_parsing()
import torch
import comfy.model_sampling as s, comfy.k_diffusion.sampling as k
class Sampling(s.ModelSamplingDiscrete, s.V_PREDICTION): pass
model = Sampling(zsnr=True)
torch.manual_seed(0)
noise, matrix = torch.randn(1, 4, 8, 8), torch.randn(4, 4) / 4
steps = [999, 832, 666, 499, 332, 166]
sigmas = torch.cat([model.sigmas[steps], torch.zeros(1)])
def denoise(x, sigma, **kwargs):
    v = torch.einsum("oi,nihw->nohw", matrix, model.calculate_input(sigma, x)).tanh()
    return model.calculate_denoised(sigma, v, x)
start = model.noise_scaling(sigmas[0], noise.clone(), torch.zeros_like(noise), True)
drawn = k.sample_dpmpp_2m(denoise, start, sigmas, disable=True)
out = {"sigmas": model.sigmas.tolist(), "drawn": drawn.flatten().tolist()}
out |= {"noise": noise.flatten().tolist(), "matrix": matrix.tolist()}
print("RESULT" + json.dumps(out))
"""


def in_comfyui(script: str, *arguments: str):
    """What a script prints behind RESULT in a ComfyUI's own Python, as JSON values."""
    root = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI"))
    if not (root / "comfy" / "model_sampling.py").exists():
        pytest.skip("no ComfyUI (COMFYUI_PATH or ~/ComfyUI): its schedules were not compared")
    own = [root / ".venv" / "bin" / "python", root / "venv" / "bin" / "python"]
    python = os.environ.get("COMFYUI_PYTHON") or next((str(p) for p in own if p.exists()), sys.executable)
    run = subprocess.run([python, "-c", script, *arguments], capture_output=True, text=True, cwd=root)
    line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT")), None)
    assert line is not None, run.stderr[-2000:]
    return json.loads(line.removeprefix("RESULT"))


def test_a_real_comfyui_samples_the_same_schedule_to_the_same_latents(zero_snr, monkeypatch):
    """ComfyUI's zero-terminal-SNR sigmas, and its DPM++ 2M with a v-predicting network, against the bank's
    solver with the same network.
    """
    theirs = {k: torch.tensor(v) for k, v in in_comfyui(IN_COMFY).items()}
    assert torch.equal(schedule.checked(1 / (1 + theirs["sigmas"].double() ** 2)), zero_snr.alphas)

    def network(z, t, cond, **kwargs):
        return (torch.einsum("oi,nihw->nohw", theirs["matrix"], z).tanh(),)

    monkeypatch.setattr(zero_snr.unet, "forward", network)
    monkeypatch.setattr(type(zero_snr), "noise", lambda self, seeds: theirs["noise"].view(1, 4, 8, 8))
    drawn = zero_snr.sample(zero_snr.encode(["a castle"]), [0], 6, guidance=1.0)
    torch.testing.assert_close(drawn.flatten(), theirs["drawn"], atol=5e-3, rtol=5e-3)


READ_BY_BRIDGE = """
import json, sys, types
root = sys.argv[1]
sys.argv = sys.argv[:1] + ["--cpu"]
sys.path.insert(0, ".")
import comfy.options
comfy.options.enable_args_parsing()
for name in ("pack", "pack.nodes"):
    package = types.ModuleType(name)
    package.__path__ = [root + name.removeprefix("pack").replace(".", "/")]
    sys.modules[name] = package
import importlib, torch
bridge = importlib.import_module("pack.nodes.bridge")
import comfy.model_sampling as s
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled
kinds = {
    "eps": (s.ModelSamplingDiscrete, s.EPS, None),
    "v": (s.ModelSamplingDiscrete, s.V_PREDICTION, None),
    "v, zsnr": (s.ModelSamplingDiscrete, s.V_PREDICTION, True),
    "lcm": (ModelSamplingDiscreteDistilled, LCM, None),
    "x0": (s.ModelSamplingDiscrete, s.X0, None),
    "edm": (s.ModelSamplingContinuousEDM, s.EDM, None),
    "flow": (s.ModelSamplingDiscreteFlow, s.CONST, None),
}
out = {}
for name, (base, kind, zsnr) in kinds.items():
    with torch.inference_mode():
        sampling = type("Sampling", (base, kind), {})(**({} if zsnr is None else {"zsnr": zsnr}))
        patcher = types.SimpleNamespace(get_model_object=lambda key: sampling)
        try:
            prediction, alphas = bridge.prediction(patcher)
            out[name] = [prediction, alphas.tolist()]
        except bridge.SageError as error:
            out[name] = str(error)
print("RESULT" + json.dumps(out))
"""


def test_the_way_in_which_a_graph_samples_its_model_is_read_in_a_real_comfyui(zero_snr):
    read = in_comfyui(READ_BY_BRIDGE, str(Path(__file__).parent.parent))
    standard = schedule.standard().tolist()
    for name, prediction, alphas in (
        ("eps", "epsilon", standard),
        ("v", "v", standard),
        ("v, zsnr", "v", zero_snr.alphas.tolist()),
        ("flow", "flow", schedule.flow(1.0).tolist()),
    ):
        assert (
            read[name][0] == prediction and schedule.checked(torch.tensor(read[name][1])).tolist() == alphas
        )
    assert "50 noise levels" in read["lcm"] and "before that node" in read["lcm"]
    assert all(isinstance(read[name], str) and "\n" not in read[name] for name in ("x0", "edm"))
