import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # processes that share the cores; torch reads this once
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
sys.path.insert(0, str(Path(__file__).parent))  # for `tiny`; never the repository root

import tiny


@pytest.fixture(scope="session", params=tiny.FAMILY_NAMES)
def family(request):
    """A thin random model of each family in turn."""
    return tiny.make(request.param)


@pytest.fixture(scope="session")
def sd1():
    return tiny.make("sd1")


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A thin random SD1 model with 8 x 8 latents, loaded."""
    from sage_core import load_model

    return load_model(tiny.folder(tiny.make("sd1"), tmp_path_factory.mktemp("thin") / "m"))


@pytest.fixture
def demo():
    """The bundled model, fresh."""
    from sage_core import load_model

    return load_model("demo")
