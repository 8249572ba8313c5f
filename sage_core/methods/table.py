"""The table of presets, one row a method (methods/method.py)."""

from __future__ import annotations

from typing import Any

from .closed_form.config import VALUES, ClosedForm
from .domains.any_prompt import AnyPrompt
from .domains.inversion import NameInversion
from .domains.neighbours import Neighbours
from .domains.prefix_token import PrefixToken
from .domains.self_check import SelfCheck
from .domains.soft_tokens import SoftTokens
from .domains.word import Word
from .method import Method, Training
from .retentions.adversarial import Adversarial
from .retentions.beyond_concept import BeyondConcept
from .retentions.noise import Noise
from .retentions.region import Region
from .retentions.relations import Relations
from .targets.adaptive import Adaptive
from .targets.anchor import Anchor
from .targets.misdirect import Misdirect
from .targets.negative_guidance import NegativeGuidance
from .targets.normalised import Normalised
from .targets.unattended import Unattended

# The papers' plain Adam from its first step on, here from a larger bank than sage's own.
STEADY: dict[str, Any] = {
    "trajectories": 12,
    "retain_trajectories": 12,
    "adjacent": 0.0,
    "solver_steps": 8,
    "erase_batch": 4,
    "warmup": 0,
    "beta2": 0.999,
}


def steady(steps: int, rate: float, **other: Any) -> Training:
    """A fixed number of steps at a constant rate, as the papers train, from a larger bank."""
    return Training(steps=steps, settle=0, learning_rate=rate, **STEADY | other)


def published(steps: int, rate: float, **other: Any) -> Training:
    """One sample a step, a fresh trajectory of 50 steps with guidance 3 for each."""
    return steady(steps, rate, erase_batch=1, solver_steps=50, fresh=True, **other)


# What sage starts from: the UNet's V alone, edited as strongly for every concept, and so that edits of
# several concepts add up to little.
START = ClosedForm(
    keep_own=20.0,
    rounds=1,
    templates=12,
    retain=5e-5,
    everywhere=True,
    shared=1e6,
    reach=0.63,
    style_reach=1.3,
    keep_rank=True,
    styled=True,
    layers=VALUES,
)

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "sage",
            "SAGE",
            "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "finds the other words for the concept in the model, starts from a closed-form edit, learns names"
            " that still draw the concept and erases them all, keeps the relations between other concepts and"
            " their predicted noise, and checks every name until nothing of the concept is left",
            NameInversion(),
            NegativeGuidance(eta=1.5),
            (Relations(weight=0.5, batch=24), Noise(weight=12.0, batch=1)),
            "both",
            Training(
                steps=30,
                first=17,
                learning_rate=3e-3,
                trajectories=4,
                retain_trajectories=8,
                styled=0.67,
                style_trajectories=20,
                style_batch=4,
                dealt=True,
                refit=4.0,
            ),
            searches=True,
            checks=True,
            warm=START,
        ),
        Method(
            "sage-robust",
            "SAGE, whatever is asked",
            "arXiv 2506.09363 (its domain and retention are ours)",
            "erases the concept from its own pictures whatever is asked, so that words and embeddings that"
            " nobody listed bring less of it back; six times the cost of sage, and not for stacks of many",
            AnyPrompt(),
            NegativeGuidance(),
            (Noise(weight=1.0, batch=4),),
            "cross_attention",
            Training(
                steps=100,
                learning_rate=2e-3,
                erase_batch=4,
                trajectories=8,
                retain_trajectories=24,
                solver_steps=8,
                styled=0.67,
                dealt=True,
            ),
        ),
        Method(
            "sage-text",
            "SAGE on the text encoder",
            "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "the cycle on the text encoder alone, as the paper has it, so that the file also works in other"
            " models that share the encoder",
            SelfCheck(),
            NegativeGuidance(eta=0.5),
            (Relations(weight=0.2), Noise(weight=10.0)),
            "text",
            Training(steps=90, enough=0.1, settle=15, **STEADY),
        ),
        Method(
            "sage-paper",
            "SAGE as the paper describes it",
            "arXiv 2506.09363 (our reading, before anything was measured)",
            "the same cycle on the search's finds alone, at full negative guidance and for a fixed number of"
            " steps",
            SelfCheck(plain=0.0),
            NegativeGuidance(),
            (Relations(), Noise()),
            "text",
            steady(120, 1e-3, rank=16, erase_batch=8),
        ),
        Method(
            "esd",
            "ESD",
            "arXiv 2303.07345",
            "pushes the bare word away from the concept by negative guidance; nothing is kept",
            Word(templates=False),
            NegativeGuidance(),
            (),
            "cross_attention",
            steady(100, 1e-3, retain_trajectories=0),
            published(200, 1e-3),
        ),
        Method(
            "leco",
            "LECO",
            "github.com/p1atdev/LECO",
            "the same as a LoRA on every linear layer of the UNet's transformer blocks",
            Word(templates=False),
            NegativeGuidance(),
            (),
            "unet",
            steady(100, 1e-3, rank=4, retain_trajectories=0),
            published(1000, 1e-4, rank=4, alpha=1.0),
        ),
        Method(
            "esd-flux",
            "ESD on the whole attention",
            "github.com/rohitgandikota/erasing (for FLUX; there on full weights)",
            "as esd, on every projection of the network's attention, the picture's too",
            Word(templates=False),
            NegativeGuidance(),
            (),
            "unet",
            steady(100, 1e-3, retain_trajectories=0),
            layers=("attn",),
        ),
        Method(
            "erase-anything",
            "EraseAnything",
            "arXiv 2412.20413",
            "as esd, on the text's queries and keys alone (of a UNet: the cross-attention's), and takes the"
            " attention off the concept's tokens; keeps other prompts' noise",
            Word(templates=False),
            Unattended(),
            (Noise(weight=0.1, batch=1),),
            "cross_attention",
            steady(100, 1e-3),
            layers=("add_q_proj", "add_k_proj", "attn2_to_q", "attn2_to_k"),
        ),
        Method(
            "slider",
            "Slider's target",
            "github.com/ostris/ai-toolkit (concept slider; here in its erasing direction alone)",
            "three times the negative guidance, with the mean and spread of the empty prompt's noise; keeps"
            " other prompts' noise",
            Word(templates=False),
            Normalised(),
            (Noise(weight=1.0, batch=1),),
            "unet",
            steady(100, 1e-3),
        ),
        Method(
            "eap",
            "EAP",
            "arXiv 2410.15618",
            "keeps the word that the erasing hurts most, sought anew at every step",
            Word(templates=False),
            NegativeGuidance(clean=True),
            (Adversarial(),),
            "cross_attention",
            steady(100, 1e-3, erase_batch=2),
            published(1000, 1e-3),
        ),
        Method(
            "age",
            "AGE",
            "arXiv 2501.18950",
            "draws the concept as the nearby word at which erasing hurts most, and keeps that word",
            Word(templates=False),
            Adaptive(),
            (),
            "cross_attention",
            steady(100, 1e-3, erase_batch=2, retain_trajectories=0),
            published(1000, 1e-3),
        ),
        Method(
            "realera",
            "RealEra",
            "arXiv 2410.09140 (reconstructed: the authors published neither code nor values)",
            "erases random neighbours of the concept's embedding towards the empty prompt, keeps embeddings"
            " that lie beyond them",
            Neighbours(),
            Anchor(),
            (BeyondConcept(),),
            "cross_attention",
            steady(100, 1e-3, retain_trajectories=0),
        ),
        Method(
            "advunlearn",
            "AdvUnlearn",
            "arXiv 2405.15234",
            "searches a token before the concept through the UNet, erases it from the text encoder, keeps"
            " ordinary prompts",
            PrefixToken(),
            NegativeGuidance(),
            (Noise(weight=1.0, batch=5),),
            "text",
            steady(60, 1e-3, erase_batch=2),
            published(1000, 1e-3),
        ),
        Method(
            "receler",
            "Receler",
            "arXiv 2311.17717",
            "searches soft tokens behind the encoder through the UNet, erases them, keeps the picture where"
            " the concept is not attended to",
            SoftTokens(),
            NegativeGuidance(),
            (Region(),),
            "cross_attention",
            steady(60, 1e-3, rank=32, erase_batch=2, retain_trajectories=0),
            published(500, 3e-4, rank=128),
        ),
        Method(
            "hirm",
            "HiRM",
            "arXiv 2602.19631",
            "turns the concept's last text states in a random direction by training the encoder's first layer"
            " alone; seconds, no UNet pass",
            Word(),
            Misdirect(),
            (),
            "text",
            steady(40, 1e-3, trajectories=0, retain_trajectories=0),
            layers=("layers_0_",),
        ),
        Method(
            "uce",
            "UCE",
            "arXiv 2308.14761",
            "rewrites the UNet's K and V in closed form so that the word reads as nothing and retained words"
            " read as before",
            None,
            None,
            (),
            "cross_attention",
            Training(steps=1),
            closed=ClosedForm(rounds=1),
        ),
        Method(
            "rece",
            "RECE",
            "arXiv 2407.12383",
            "repeats UCE on the embeddings that still mean the concept afterwards; seconds, no UNet pass",
            None,
            None,
            (),
            "cross_attention",
            Training(steps=3),
            closed=ClosedForm(),
        ),
    )
}
