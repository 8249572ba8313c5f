"""The ComfyUI nodes. Thin: ComfyUI's objects in, core's objects out, and back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyErasures
from .compare import CompareErasure
from .demo import LoadDemoModel
from .erase import EraseConcept
from .guard import ConceptGuard
from .red_team import RedTeam
from .report import ErasureReport


class SageExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            EraseConcept,
            ApplyErasures,
            CompareErasure,
            ErasureReport,
            ConceptGuard,
            LoadDemoModel,
            RedTeam,
        ]


async def comfy_entrypoint() -> SageExtension:
    return SageExtension()
